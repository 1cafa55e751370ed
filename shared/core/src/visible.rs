//! Visible characters, and characters that make a text look like another one.

/// True if a text has a visible character: neither white space nor invisible (Unicode's `Default_Ignorable_Code_Point`, and
/// the blanks of Hangul and Braille).
pub(crate) fn has_visible(text: &str) -> bool {
    text.chars().any(is_visible)
}

/// Whether a text can be a file's name wherever one is shown: no path, and nothing that turns or breaks the text around it,
/// which would show `bill<RLO>fdp.exe` as `billexe.pdf` (Unicode Technical Report 36 section 2.10.5).
pub(crate) fn is_file_name(text: &str) -> bool {
    let is_odd = |c: char| {
        c.is_control()
            || matches!(c, '/' | '\\' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    has_visible(text) && !text.contains(is_odd)
}

fn is_visible(c: char) -> bool {
    let is_blank = c.is_whitespace()
        || c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{2800}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fff8}'
                | '\u{e0000}'..='\u{e0fff}'
        );
    !is_blank
}

/// Whether a text of one line is broken by a separator, or turned by an override (Unicode Technical Report 36 section
/// 2.10.5). Embeddings and isolates, which writing from right to left needs, turn nothing else.
pub(crate) fn is_turned(text: &str) -> bool {
    text.contains(['\u{2028}', '\u{2029}', '\u{202d}', '\u{202e}'])
}
