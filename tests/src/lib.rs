//! Integration tests of the whole: the functions' own handlers, AWS over the wire, mail over SMTP.
//! Everything is in `tests/`; `events/` holds what `sam local invoke` is given.

#![cfg_attr(all(test, fuzzing), no_main)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "what is not as it should be is the test's failure"
    )
)]

// Here and not in `tests/`, since libFuzzer's programs are those of libraries, of which all are built at once.
#[cfg(test)]
mod fuzz;
