"""Why a state is refused."""


class StateError(ValueError):
    """A state that does not fit; the slot it was meant for is as it was.

    `array` names the array (or "offset", "slot", "arrays"), `reason` says what is wrong with it.
    """

    def __init__(self, array: str, reason: str) -> None:
        super().__init__(f"{array}: {reason}")
        self.array = array
        self.reason = reason
