"""What people say of themselves and of those near to them, and how it is asked for later.

The relations of training and of evaluation are told and asked for in other words, and many of them
are about other things. Fields: {value}, {who} where the relation says whose, {old} in updates.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lalte.retrofit import facts
from lalte.retrofit.facts import Shape, one_of
from lalte.retrofit.templates import Templates


@dataclass(frozen=True)
class Relation:
    """A kind of value and the wordings for it; whose: what {who} may be, nothing without {who}."""

    shape: Shape
    turns: tuple[str, ...]
    updates: tuple[str, ...]
    questions: tuple[tuple[str, str], ...]
    whose: tuple[str, ...] = ()
    templates: Templates = field(init=False)

    def __post_init__(self) -> None:
        templates = Templates((), self.turns, self.updates, self.questions)
        object.__setattr__(self, "templates", templates)


_KIN = ("brother", "aunt", "mother", "nephew", "wife", "cousin", "boss", "flatmate")
_OTHER_KIN = ("sister", "uncle", "father", "niece", "husband", "neighbour", "teacher")

TRAINING_RELATIONS = (
    Relation(
        facts.person,
        ("Hi, this is {value} speaking.", "You can call me {value}.", "I'm {value}, by the way."),
        ("I got married and changed my name from {old} to {value}.",),
        (("Who am I?", "You are {value}."), ("Do you know what I'm called?", "Yes, {value}.")),
    ),
    Relation(
        one_of("cities"),
        (
            "I've been living in {value} for two years.",
            "I come from {value}, so I know the weather there.",
            "We have a small flat in {value}.",
        ),
        ("I've left {old} and settled in {value}.", "We moved from {old} to {value} last week."),
        (
            ("Which city is my home?", "Your home is in {value}."),
            ("In which town is my flat?", "Your flat is in {value}."),
            ("Where is it that I live now?", "You live in {value} now."),
        ),
    ),
    Relation(
        one_of("pets"),
        (
            "I have a cat, her name is {value}.",
            "We named our cat {value}.",
            "My cat {value} is sitting on the keyboard.",
        ),
        ("We renamed the cat: not {old} any more but {value}.",),
        (
            ("What name does my cat have?", "Your cat's name is {value}."),
            ("How is my cat called?", "Your cat is called {value}."),
        ),
    ),
    Relation(
        one_of("pets"),
        (
            "My {who} bought a parrot and named it {value}.",
            "{value} is the parrot of my {who}.",
            "The parrot that my {who} keeps answers to {value}.",
        ),
        ("The parrot of my {who} is now called {value} instead of {old}.",),
        (
            ("What is the name of my {who}'s parrot?", "The parrot is named {value}."),
            ("Which name did my {who} give the parrot?", "The name {value}."),
        ),
        _KIN,
    ),
    Relation(
        one_of("jobs"),
        (
            "I work as a {value}.",
            "I earn my living as a {value}.",
            "These days I'm employed as a {value}.",
        ),
        ("I quit as a {old} and now I'm a {value}.",),
        (
            ("What is my job?", "You work as a {value}."),
            ("What do I do for a living?", "You are a {value}."),
        ),
    ),
    Relation(
        one_of("jobs"),
        ("My {who} is a {value}.", "My {who} has trained to be a {value}."),
        ("My {who} is no longer a {old}; it's {value} now.",),
        (
            ("What does my {who} do for work?", "Your {who} is a {value}."),
            ("Which profession has my {who}?", "Your {who} is a {value}."),
        ),
        _KIN,
    ),
    Relation(
        one_of("foods"),
        (
            "I can't eat {value}, it makes me ill.",
            "Please no {value} for me, I have an allergy.",
            "My doctor says that I must avoid {value}.",
        ),
        ("It turned out that {old} is fine for me, but {value} is not.",),
        (
            ("Which food must I avoid?", "You must avoid {value}."),
            ("What can't I eat?", "You can't eat {value}."),
        ),
    ),
    Relation(
        one_of("colours"),
        (
            "I painted my bedroom {value}.",
            "The front door of our house is {value}.",
            "I'd like everything in {value}, I love that colour.",
        ),
        ("I don't like {old} any more, I prefer {value}.",),
        (
            ("Which colour do I like?", "You like {value}."),
            ("What colour did I mention?", "You mentioned {value}."),
        ),
    ),
    Relation(
        one_of("instruments"),
        ("I play the {value} in a small band.", "I've been practising the {value} since school."),
        ("I swapped the {old} for the {value}.",),
        (
            ("Which instrument do I play?", "You play the {value}."),
            ("What do I practise?", "You practise the {value}."),
        ),
    ),
    Relation(
        one_of("titles"),
        ("I'm reading {value} at the moment.", "I can't put {value} down, such a good book."),
        ("I've finished {old}. Now I'm on {value}.",),
        (
            ("Which book am I reading?", "You are reading {value}."),
            ("What is the title of my book?", "The title is {value}."),
        ),
    ),
    Relation(
        facts.address,
        ("My address is {value}.", "Please send the parcel to {value}.", "We live at {value}."),
        ("Don't use {old}, the new address is {value}.",),
        (
            ("What is my address?", "Your address is {value}."),
            ("Where should the parcel go?", "It should go to {value}."),
        ),
    ),
    Relation(
        facts.phone,
        ("You can reach me on {value}.", "My phone number is {value}.", "Call {value} if needed."),
        ("My old number {old} is gone, use {value}.",),
        (
            ("What is my phone number?", "Your phone number is {value}."),
            ("Under which number can I be reached?", "Under {value}."),
        ),
    ),
    Relation(
        facts.mail,
        ("My email is {value}.", "Write to {value}, I read it every day."),
        ("I closed {old}. Write to {value} from now on.",),
        (
            ("What is my email?", "Your email is {value}."),
            ("To which address can one write to me?", "To {value}."),
        ),
    ),
    Relation(
        facts.day,
        ("I have to see the dentist on {value}.", "The dentist gave me an appointment on {value}."),
        ("The dentist moved me from {old} to {value}.",),
        (
            ("When do I see the dentist?", "You see the dentist on {value}."),
            ("What date is my appointment with the dentist?", "It is on {value}."),
        ),
    ),
    Relation(
        facts.day,
        ("My {who} was born on {value}.", "My {who} celebrates on {value}, birthday cake and all."),
        ("I mixed it up: my {who} was not born on {old} but on {value}.",),
        (
            ("When is the birthday of my {who}?", "The birthday of your {who} is {value}."),
            ("On which day was my {who} born?", "On {value}."),
        ),
        _KIN,
    ),
    Relation(
        facts.clock,
        ("My train leaves at {value}.", "I must catch the train at {value} tomorrow."),
        ("They changed my train from {old} to {value}.",),
        (
            ("When does my train leave?", "Your train leaves at {value}."),
            ("At what time is my train?", "At {value}."),
        ),
    ),
    Relation(
        facts.amount,
        ("I paid {value} for my bike.", "The bike cost me {value}, a bargain."),
        ("I thought that the bike cost {old}, but it was {value}.",),
        (
            ("How much did I pay for the bike?", "You paid {value}."),
            ("What did my bike cost?", "It cost {value}."),
        ),
    ),
    Relation(
        facts.code,
        ("The wifi password is {value}.", "Our wifi uses {value} as the password."),
        ("I changed the wifi password from {old} to {value}.",),
        (
            ("What is the wifi password?", "The wifi password is {value}."),
            ("Which password does our wifi have?", "{value}"),
        ),
    ),
    Relation(
        facts.number,
        ("My customer number is {value}.", "They gave me {value} as customer number."),
        ("My customer number is not {old} any more, it's {value}.",),
        (
            ("What is my customer number?", "Your customer number is {value}."),
            ("Under which customer number am I listed?", "Under {value}."),
        ),
    ),
    Relation(
        one_of("makes"),
        ("I drive a {value}.", "I bought a used {value} in spring."),
        ("I sold the {old} and drive a {value} now.",),
        (
            ("What car do I drive?", "You drive a {value}."),
            ("Which vehicle is mine?", "Yours is a {value}."),
        ),
    ),
    Relation(
        one_of("subjects"),
        ("I'm studying {value}.", "I enrolled in {value} at the university."),
        ("I dropped {old} and study {value} now.",),
        (
            ("What am I studying?", "You are studying {value}."),
            ("Which subject did I enrol in?", "You enrolled in {value}."),
        ),
    ),
    Relation(
        facts.small_number,
        ("My {who} is {value} years old.", "My {who} has just turned {value}."),
        ("My {who} isn't {old}, I miscounted: {value}.",),
        (
            ("How old is my {who}?", "Your {who} is {value} years old."),
            ("What is the age of my {who}?", "{value} years."),
        ),
        _KIN,
    ),
    Relation(
        facts.person,
        ("My {who} is called {value}.", "{value} is my {who}.", "I have a {who}, {value}."),
        ("My new {who} is {value}, {old} has left.",),
        (
            ("What is the name of my {who}?", "Your {who} is {value}."),
            ("Who is my {who}?", "Your {who} is {value}."),
        ),
        ("landlord", "doctor", "lawyer", "colleague", "coach", "editor", *_KIN),
    ),
    Relation(
        facts.thing,
        ("I hid the spare key under the {value}.", "The spare key is beneath the {value}."),
        ("The spare key is not under the {old} any more but under the {value}.",),
        (
            ("Where is the spare key?", "The spare key is under the {value}."),
            ("Under what did I hide the key?", "Under the {value}."),
        ),
    ),
    Relation(
        facts.quote,
        ('My grandmother used to say: "{value}".', 'The note on my desk says "{value}".'),
        ('The note said "{old}", now it says "{value}".',),
        (
            ("What does the saying go like?", "It goes: {value}."),
            ("Which words did I quote?", "{value}."),
        ),
    ),
)

EVALUATION_RELATIONS = (
    Relation(
        facts.person,
        ("My name is {value}.", "Let me introduce myself, {value}."),
        ("Please don't say {old} to me, from today my name is {value}.",),
        (("What is my name?", "Your name is {value}."),),
    ),
    Relation(
        one_of("cities"),
        ("I live in {value}.", "{value} is where I have my house."),
        ("I don't live in {old} now, I live in {value}.",),
        (("In which city do I live?", "You live in {value}."),),
    ),
    Relation(
        one_of("pets"),
        ("My {who}'s dog is called {value}.", "My {who} has a dog by the name of {value}."),
        ("My {who}'s dog was called {old}, but they call it {value} now.",),
        (("What is my {who}'s dog called?", "Your {who}'s dog is called {value}."),),
        _OTHER_KIN,
    ),
    Relation(
        one_of("jobs"),
        ("By profession I am a {value}.", "At present my occupation is {value}."),
        ("I used to be a {old}, at present my occupation is {value}.",),
        (("What is my occupation?", "Your occupation is {value}."),),
    ),
    Relation(
        one_of("foods"),
        ("My favourite thing to eat is {value}.", "I could eat {value} every day."),
        ("My favourite food used to be {old}, these days it is {value}.",),
        (("What is my favourite food?", "Your favourite food is {value}."),),
    ),
    Relation(
        one_of("colours"),
        ("We had the kitchen done in {value}.", "Our kitchen walls are {value}."),
        ("The kitchen was {old}, but since May it has been {value}.",),
        (("What colour is our kitchen?", "Your kitchen is {value}."),),
    ),
    Relation(
        one_of("instruments"),
        ("My {who} takes lessons on the {value}.", "My {who} performs on the {value}."),
        ("My {who} gave up the {old} and took up the {value}.",),
        (("Which instrument does my {who} play?", "Your {who} plays the {value}."),),
        _OTHER_KIN,
    ),
    Relation(
        facts.day,
        ("The wedding takes place on {value}.", "We set the wedding for {value}."),
        ("The wedding had to be moved, it was {old} and is now {value}.",),
        (("When is the wedding?", "The wedding is on {value}."),),
    ),
    Relation(
        facts.clock,
        ("I have set my alarm for {value}.", "Every morning the alarm rings at {value}."),
        ("My alarm isn't at {old} these days but at {value}.",),
        (("At what time does my alarm ring?", "Your alarm rings at {value}."),),
    ),
    Relation(
        facts.amount,
        ("The plumber charged {value}.", "I owe the plumber {value}."),
        ("The plumber corrected the bill: {value} rather than {old}.",),
        (("How much did the plumber charge?", "The plumber charged {value}."),),
    ),
    Relation(
        facts.number,
        ("The safe opens with {value}.", "To open the safe you dial {value}."),
        ("Someone changed the safe, {old} fails and {value} works.",),
        (("Which number opens the safe?", "The safe opens with {value}."),),
    ),
    Relation(
        facts.code,
        ("Our flight has the booking code {value}.", "The airline's code for our trip is {value}."),
        ("After the change our booking code is {value}, forget {old}.",),
        (("What is the booking code of our flight?", "The booking code is {value}."),),
    ),
    Relation(
        facts.person,
        ("The new director is {value}.", "{value} has taken over as director."),
        ("{old} has resigned as director and {value} took over.",),
        (("Who is the director?", "The director is {value}."),),
    ),
    Relation(
        one_of("makes"),
        ("My {who} owns a {value}.", "There is a {value} parked outside, it is my {who}'s."),
        ("My {who} traded the {old} in for a {value}.",),
        (("What car does my {who} own?", "Your {who} owns a {value}."),),
        _OTHER_KIN,
    ),
    Relation(
        facts.small_number,
        ("There are {value} students in my class.", "My class has {value} students."),
        ("My class grew, it had {old} students and has {value} now.",),
        (("How many students are in my class?", "There are {value} students in your class."),),
    ),
    Relation(
        facts.thing,
        ("The boat is named after a {value}.", "We gave our boat the name {value}."),
        ("Our boat was {old} at first, we repainted it as {value}.",),
        (("What is our boat's name?", "Your boat's name is {value}."),),
    ),
)
