"""Fakes that ship: stand-ins for tools that need hardware nobody has at hand, speaking the real protocol."""
