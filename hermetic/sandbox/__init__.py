"""Where stages run: launch plans as pure data, what starts them, and the environments they run in."""
