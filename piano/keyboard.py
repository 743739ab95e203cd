"""The piano in the numbers of MIDI."""

KEYS = 88
LOWEST_PITCH = 21
HIGHEST_PITCH = LOWEST_PITCH + KEYS - 1
PEDAL_CONTROLLER = 64
"""Controller of the sustain pedal."""
