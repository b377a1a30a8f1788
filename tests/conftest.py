"""What holds for every test."""

from hypothesis import settings

# A test fails for what it found, never for how long a busy machine took.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
