"""Melodies: read from MIDI, ABC and MusicXML, written as tokens, and heard."""
