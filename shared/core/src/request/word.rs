//! Words of ASCII letters, digits, `-` and `_`.

/// Whether `text` is `least` to `most` ASCII letters, digits, `-` and `_`.
pub(super) fn is_word(text: &str, least: usize, most: usize) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    (least..=most).contains(&text.len()) && text.bytes().all(plain)
}
