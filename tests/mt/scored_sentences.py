"""Translations to score, with what Moses's tokeniser and a splitter of compounds have to do in them."""

SYSTEM = [
    "Die Nord-Süd-Bahn fährt z. B. um 7.30 Uhr, sagt Dr. Weber.",
    'Das "E-Mail-Programm" läuft nicht: 50% der Nutzer (etwa 1,5 Mio.) warten...',
    "Er hat's gesagt & sie glaubt's ihm – oder?",
    "Der alte, müde Hund liegt auf der A-B-C-Matte.",
]
REFERENCES = [
    "Die Nord-Süd-Strecke fährt z. B. um 7.30 Uhr ab, sagt Dr. Weber.",
    'Das "E-Mail-Programm" läuft nicht: 50 % der Nutzer (etwa 1,5 Mio.) warten …',
    "Er hat's gesagt & sie glaubt's ihm - oder nicht?",
    "Der alte, müde Hund schläft auf der A-B-C-Matte.",
]
