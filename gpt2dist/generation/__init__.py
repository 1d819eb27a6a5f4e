"""Text generation from prompts."""
