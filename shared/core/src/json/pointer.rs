//! JSON pointers (RFC 6901).

/// The pointer to `name` in the object at `pointer`, with the escapes of RFC 6901 section 3. The name may be the caller's own:
/// it is cut to 64 characters, and its control characters are replaced.
pub(super) fn pointer_to(pointer: &str, name: &str) -> String {
    let mut whole = String::with_capacity(pointer.len() + name.len() + 1);
    whole.push_str(pointer);
    whole.push('/');
    for c in name.chars().take(64) {
        match c {
            '~' => whole.push_str("~0"),
            '/' => whole.push_str("~1"),
            c if c.is_control() => whole.push(char::REPLACEMENT_CHARACTER),
            c => whole.push(c),
        }
    }
    whole
}
