"""The tests of pyattn; each module of pyattn/ has one of the same name here."""
