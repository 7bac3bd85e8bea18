"""What a data set is before anything is paid for it: counts, statements, lengths, floors and leaks (`reflex data check`)."""
