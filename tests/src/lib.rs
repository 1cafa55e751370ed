//! Integration tests of the whole: the functions' own handlers, AWS over the wire, mail over SMTP.
//! Everything is in `tests/`; `events/` holds what `sam local invoke` is given.
