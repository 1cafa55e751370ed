//! How long is remembered what a server was found to allow.

use jiff::{SignedDuration, Timestamp};

/// Long enough that what is learned anew now and then costs nothing worth mentioning, and short enough
/// that a server that had a bad moment is soon made full use of again.
const MEMORY: SignedDuration = SignedDuration::from_mins(10);

/// Whether what was found out at `since` still counts. A clock that went backwards proves nothing.
pub(super) fn is_remembered(since: Timestamp, now: Timestamp) -> bool {
    let age = now.duration_since(since);
    age >= SignedDuration::ZERO && age < MEMORY
}
