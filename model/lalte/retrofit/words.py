"""Names and words that invented facts are made of. Training and evaluation share none of them.

Otherwise a router could learn the words instead of what makes something worth keeping.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in text.split("|"))


@dataclass(frozen=True)
class Words:
    """Pools to draw from; `oath` holds the words of quotes."""

    first: tuple[str, ...]
    last: tuple[str, ...]
    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]
    cities: tuple[str, ...]
    colours: tuple[str, ...]
    pets: tuple[str, ...]
    jobs: tuple[str, ...]
    foods: tuple[str, ...]
    instruments: tuple[str, ...]
    titles: tuple[str, ...]
    streets: tuple[str, ...]
    makes: tuple[str, ...]
    subjects: tuple[str, ...]
    oath: tuple[str, ...]


_ALL = Words(
    first=_words(
        "Mara Tobias Ines Leopold Yusuf Greta Anselm Priya Odile Marcus Hanna Rufus Celia "
        "Dmitri Noor Felix Imogen Pablo Sunniva Walter Zora Edmund Keiko Lionel Beatrix Omar "
        "Thea Jasper Rosalind Viktor Amara Silas Petra Hugo Nadia Caspian Elspeth Ravi Juno "
        "Barnaby Linnea Gustavo Maeve Tariq Bronwyn Chen Aurelio Fatima Niklas Paloma Desmond "
        "Yuki Agnes Kofi Marisol Ludwig Sana Ewan Clementine Arjun Vera Matteo Ottilie Kwame "
        "Daphne Rashid Signe Emil Lakshmi Conrad Freya Ignacio Tamsin Boris Mei Alaric Zainab "
        "Oskar Philippa Enzo"
    ),
    last=_words(
        "Quill Okafor Lindqvist Marlowe Abernathy Castellan Vance Hargreave Novak Tremaine "
        "Iyer Fairweather Duarte Brandt Holloway Petrov Ashdown Kimura Delacroix Winslow "
        "Rahman Stroud Falk Merriweather Sandoval Oduya Thorne Bexley Zielinski Crane "
        "Ferreira Nakamura Pemberton Haddad Sorensen Whitlock Moreau Banerjee Kowalski Ortega "
        "Lockhart Mbeki Steiner Valdez Haugen Pritchard Adeyemi Rossi Farnsworth Huang Keller "
        "Dubois Santoro Blackwood Nyberg Rourke Takeda Underhill Voss Yardley"
    ),
    adjectives=_words(
        "quiet amber crooked velvet northern hollow gilded brisk faded lunar copper ragged "
        "solemn tidal emerald frozen dusty nimble scarlet drowsy polished wandering bitter "
        "violet ancient rusty silent marbled eager winding hidden sandy crystal lonely "
        "speckled"
    ),
    nouns=_words(
        "harbor lantern kettle orchard compass meadow falcon thimble anchor cinder ladder "
        "marble willow trumpet barrel saddle beacon garden pebble turbine cathedral violin "
        "tractor glacier bridge candle fountain hammer island jacket mirror needle pillow "
        "rocket sparrow tunnel"
    ),
    cities=_words(
        "Lisbon Tromso Kyoto Valparaiso Leeds Gdansk Nairobi Bergen Marseille Tbilisi Quito "
        "Halifax Antwerp Izmir Porto Riga Cardiff Lucknow Oaxaca Turku Adelaide Bologna Cusco "
        "Dakar Eindhoven Fukuoka Ghent Hanoi Innsbruck Jaipur Krakow Lyon Malmo Nantes Odense "
        "Plovdiv Rosario Salzburg Tampere Utrecht Vilnius Winnipeg Yerevan Zagreb Aberdeen "
        "Boise Cordoba Durban"
    ),
    colours=_words(
        "teal ochre maroon indigo ivory crimson olive turquoise mauve charcoal lavender beige "
        "coral magenta navy amethyst saffron lilac"
    ),
    pets=_words(
        "Biscuit Ziggy Marzipan Pickles Domino Waffles Comet Nutmeg Figaro Muffin Pretzel "
        "Gizmo Noodle Bandit Clover Truffle Socks Mango Rascal Juniper Button Tinker Peaches "
        "Cosmo Olive Sprout Twix Nugget Bramble Fudge"
    ),
    jobs=_phrases(
        "beekeeper|court reporter|dentist|glassblower|translator|crane operator|midwife|"
        "bookbinder|tax inspector|pastry chef|geologist|stage designer|ferry captain|optician|"
        "locksmith|radio host|vet|carpenter|pilot|archivist|florist|bus driver|"
        "marine biologist|tailor|piano tuner|surveyor|baker|judge|nurse|chemist"
    ),
    foods=_phrases(
        "walnuts|shellfish|strawberries|gluten|peanuts|sesame|mushrooms|celery|soy|mustard|"
        "eggs|kiwi|lobster|almonds|oysters|coriander|lentils|aubergine|tofu|blue cheese|"
        "anchovies|pineapple|rhubarb|pistachios"
    ),
    instruments=_phrases(
        "cello|oboe|accordion|French horn|harp|banjo|clarinet|viola|sitar|trombone|double bass|"
        "mandolin|bassoon|ukulele|organ|flute|drums|saxophone"
    ),
    titles=_phrases(
        "The Glass Orchard|A Winter in Sand|Seven Doors|Letters from Nowhere|The Salt Road|"
        "Under Blue Mountains|The Clockmaker's Son|Night Ferry|Paper Lions|"
        "The Last Cartographer|Half a Kingdom|Rain on Tin|The Owl and the Engine|Low Tide|"
        "A Map of Sparrows|Ember Street"
    ),
    streets=_phrases(
        "Maple Street|Harbour Road|Old Mill Lane|Kingsway|Station Avenue|Cedar Close|"
        "Birch Terrace|Church Hill|Orchard Row|Lime Grove|Bridge Street|Quarry Road|"
        "Foxglove Drive|Abbey Walk|Canal Street|Windmill Way|Rose Crescent|Market Square"
    ),
    makes=_phrases(
        "Volvo|Fiat Panda|Toyota Corolla|Skoda|Honda Civic|Renault Clio|Saab|Mazda|Ford Fiesta|"
        "Peugeot|Subaru|Vespa|Tesla|Land Rover|Mini Cooper|Citroen|Kia|Jeep"
    ),
    subjects=_phrases(
        "linguistics|organic chemistry|medieval history|accounting|botany|law|"
        "civil engineering|statistics|astronomy|nursing|philosophy|graphic design|economics|"
        "musicology|geography|archaeology|psychology|robotics"
    ),
    oath=_words(
        "river stone never sleeps under seven bridges while patient foxes carry letters "
        "toward winter and every clock forgets its oldest hour before the tide returns our "
        "borrowed light across narrow fields where distant bells answer slowly until morning "
        "finds another open door"
    ),
)  # fmt: skip

# One word in so many is for evaluation.
_HELD_OUT = 3


def _part(*, evaluation: bool) -> Words:
    return Words(
        *(
            tuple(
                word
                for place, word in enumerate(getattr(_ALL, field.name))
                if (place % _HELD_OUT == 1) == evaluation
            )
            for field in fields(Words)
        )
    )


TRAINING_WORDS = _part(evaluation=False)
EVALUATION_WORDS = _part(evaluation=True)
