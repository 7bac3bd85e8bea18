"""The declarative operator (paper Eq. 1): a question and an answer become one statement."""
