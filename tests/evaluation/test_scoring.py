from lalte.evaluation.scoring import wilson


def test_the_interval_is_wilsons():
    low, high = wilson(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.49, 0.943)
    assert wilson(0, 5)[0] == 0
    assert wilson(5, 5)[1] == 1
