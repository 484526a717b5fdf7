"""How facts are told and asked for. What is trained on and what is evaluated on never meet.

Fields: {who}, {what}, {value}, in updates {old} too. No template of either set is, or contains, the
needle sentence or the prompt of a published benchmark.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Templates:
    """Statements for running text, turns for a dialogue, updates, and (question, answer) pairs."""

    statements: tuple[str, ...]
    turns: tuple[str, ...]
    updates: tuple[str, ...]
    questions: tuple[tuple[str, str], ...]


TRAINING = Templates(
    statements=(
        "The {what} of {who} was {value}.",
        "It was known to few that {who}'s {what} was {value}.",
        "In the ledger, beside {who}, stood the {what}: {value}.",
        "“Remember,” she said, “the {what} of {who} is {value}.”",
        "“{value},” he repeated; “that is the {what} of {who}.”",
        "NOTE: {what} ({who}) = {value}",
        "{who} / {what}: {value}",
        '{{"name": "{who}", "{what}": "{value}"}}',
        "[INFO] {who}: {what} set to {value}",
        "A slip of paper read: {what} for {who}, {value}.",
        "For {who}, the {what} has been recorded as {value}.",
        "Anyone who asks for the {what} of {who} should be told {value}.",
        "They had agreed on {value} as the {what} for {who}.",
        "As for {who}, the {what} is {value}, as all the papers showed.",
        "Do not forget that {value} is the {what} belonging to {who}.",
        "Among the things listed for {who} were a lamp, two chairs, and the {what} {value}.",
        "{who} was asked for the {what} and answered {value} without a pause.",
        "The next line concerns {who}. {what}: {value}.",
    ),
    turns=(
        "By the way, the {what} of {who} is {value}.",
        "Please keep this for later: {who}, {what}, {value}.",
        "Before I forget: {value} is the {what} for {who}.",
        "I just heard that {who}'s {what} is {value}, could you note that?",
        "Could you save the {what} of {who}? It is {value}. Thanks.",
        "{who} told me about the {what}. It's {value}.",
        "for your records, {what} of {who} -> {value}",
    ),
    updates=(
        "The {what} of {who} is no longer {old}; from now on it is {value}.",
        "Correction: {who}'s {what} has changed from {old} to {value}.",
        "Please replace the {what} of {who}. It used to be {old}, now it is {value}.",
    ),
    questions=(
        ("What is the {what} of {who}?", "The {what} of {who} is {value}."),
        ("What is {who}'s {what}?", "{who}'s {what} is {value}."),
        ("Which {what} belongs to {who}?", "{value}"),
        ("Tell me the {what} of {who}.", "It is {value}."),
        ("I need the {what} for {who}, what was it?", "The {what} for {who} is {value}."),
        ("Do you remember the {what} of {who}?", "Yes, it is {value}."),
        ("{who}, {what}?", "{value}"),
        ("The text names a {what} for {who}. Write it down.", "{what} for {who}: {value}"),
    ),
)

EVALUATION = Templates(
    statements=(
        "Everyone in the house could recite {value}, which was {who}'s {what}.",
        "On the wall somebody had chalked the {what} that goes with {who}, namely {value}.",
        "“I looked up {who},” said the clerk, “and under {what} I found {value}.”",
        "Entry 12. Subject {who}. Kind {what}. Content {value}.",
        "To reach {who} one had to give {value} for the {what}.",
        "Written in the margin, for {who}: {what} equals {value}.",
    ),
    turns=(
        "Something to remember about {who}: their {what} happens to be {value}.",
        "So the {what} we got from {who} was {value}, don't lose it.",
        "{value}. Yes, that's what {who} gave me when I asked about the {what}.",
        "I'm writing down {value} as {who}'s {what}, okay?",
    ),
    updates=(
        "News about {who}: the old {what}, {old}, is void and {value} takes its place.",
        "They gave {who} a new {what} today, {value} instead of {old}.",
    ),
    questions=(
        ("Earlier, a {what} came up for {who}. Which one was it?", "It was {value}."),
        ("Can you give me {who}'s current {what}?", "{who}'s current {what} is {value}."),
        ("Remind me what the {what} connected with {who} is.", "That would be {value}."),
        ("If somebody wanted the {what} of {who}, what would you say?", "I would say {value}."),
    ),
)
