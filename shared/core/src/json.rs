//! Reading JSON from outside field by field. All problems are reported together, each with its JSON pointer (RFC 6901), and
//! unknown fields are refused by name.
//!
//! A problem states the rule. It never repeats the wrong value.

mod object;
mod parse;
mod pointer;
mod problems;
pub mod read;

pub use object::Object;
pub use parse::{MAX_DEPTH, MAX_VALUES, parse};
pub use problems::{Problem, Problems};
