"""HOST: a language model behind an OpenAI-compatible endpoint, asked over HTTP; what fails is told apart from what it said."""
