"""The demo: a small office of slow work behind `raincheck serve`, and a `kill -9` in the middle of it."""
