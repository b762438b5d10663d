"""Trained networks on events, inside a processor or outside: `Scorer` and the engines that it runs on."""
