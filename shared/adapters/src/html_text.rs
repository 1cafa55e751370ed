//! The text of an HTML body, for the text part of an e-mail that was posted without one.
//!
//! It reads the tags one after the other and builds no tree. A parser that builds one looks through all open elements at
//! many of the tags, which makes minutes of half a megabyte of `<div>`; and what walks such a tree needs a stack as deep.
//! Here time and memory are in proportion to the HTML, whatever it is.

mod render;
mod skip;

use html5gum::{
    Span, State, Tokenizer,
    emitters::callback::{CallbackEmitter, CallbackEvent},
};

use self::render::Renderer;

/// What a reader of `html` sees, as plain text: paragraphs, lists and lines of tables on lines of their own, links in angle
/// brackets behind their text (RFC 3986 appendix C), pictures by their `alt`. Scripts, styles, comments and what
/// `display:none` hides are left out. Empty where there is nothing to read.
pub(crate) fn text_of(html: &str) -> String {
    let mut renderer = Renderer::new(html.len());
    let callback =
        |event: CallbackEvent<'_>, _: Span<()>| -> Option<State> { renderer.take(&event) };
    let mut tokenizer = Tokenizer::new_with_emitter(html, CallbackEmitter::new(callback));
    // A string can always be read.
    while let Some(Ok(state)) = tokenizer.next() {
        tokenizer.set_state(state);
    }
    drop(tokenizer);
    renderer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_lines_and_lists_are_lines() {
        for (html, expected) in [
            (
                "<p>Hello  \n Anna,</p><p>see you<br>on Monday.</p>",
                "Hello Anna,\n\nsee you\non Monday.",
            ),
            ("<h1>Title</h1>text", "Title\n\ntext"),
            ("<ul><li>one<li>two</ul>end", "- one\n- two\n\nend"),
            (
                "<ol><li>one</li><li>two<ul><li>inner</li></ul></li></ol>",
                "1. one\n2. two\n- inner",
            ),
            (
                "<table><tr><td>Date</td><td>Monday</td></tr><tr><td>Time</td><td>10:30</td></tr></table>",
                "Date Monday\nTime 10:30",
            ),
            ("<div>a</div><div><div>b</div></div>", "a\nb"),
            ("a<hr>b", "a\nb"),
            ("<pre>  a\n   b</pre>", "  a\n   b"),
            ("a&nbsp;&amp;&lt;b&gt; &euro;&#128512;", "a &<b> €😀"),
            ("", ""),
            ("<p> </p><br><br>", ""),
        ] {
            assert_eq!(text_of(html), expected, "{html}");
        }
    }

    #[test]
    fn a_one_time_code_is_readable() {
        let html = "<html><head><title>Code</title><style>p { color: red }</style></head><body><table><tr><td>\
                    <p>Your code is</p><div style=\"font-size:32px\"><b>4</b><b>8</b><b>1</b> <b>5</b><b>1</b><b>6</b></div>\
                    <p>It is valid for 10&nbsp;minutes.</p></td></tr></table></body></html>";
        assert_eq!(
            text_of(html),
            "Your code is\n\n481 516\n\nIt is valid for 10 minutes."
        );
    }

    #[test]
    fn links_are_kept_and_said_once() {
        for (html, expected) in [
            (
                "<a href=\"https://a.example/x?y=1&amp;z=2\">Confirm</a>.",
                "Confirm <https://a.example/x?y=1&z=2>.",
            ),
            (
                "<a href=\"https://a.example/\">https://a.example/</a>",
                "https://a.example/",
            ),
            (
                "<a href='mailto:desk@clinic.example'>desk@clinic.example</a>",
                "desk@clinic.example",
            ),
            (
                "<a href='tel:+4930901820'>Call us</a>",
                "Call us <tel:+4930901820>",
            ),
            ("<a href='javascript:alert(1)'>Click</a>", "Click"),
            ("<a href='#top'>Top</a>", "Top"),
            (
                "<a href='https://a.example/'><img src='x' alt='Logo'></a>",
                "Logo <https://a.example/>",
            ),
            (
                "<a href='https://a.example/'><img src='x'></a>",
                "<https://a.example/>",
            ),
            (
                "<a href=' https://a.example/a b\n '>x</a>",
                "x <https://a.example/a%20b>",
            ),
            (
                "<a href='https://a.example/'>one<a href='https://b.example/'>two",
                "one <https://a.example/>two <https://b.example/>",
            ),
        ] {
            assert_eq!(text_of(html), expected, "{html}");
        }
    }

    #[test]
    fn what_is_not_read_is_left_out() {
        for html in [
            "<script>alert('<p>x</p>')</script>",
            "<STYLE>x</STYLE>",
            "<!-- x --><!doctype html><title>x</title>",
            "<div style='mso-hide:all; Display : None'>x<div>x</div>x</div>",
            "<span hidden>x</span>",
            "<template><p>x</p></template>",
            "<!--[if mso]><p>x</p><![endif]-->",
            "<textarea>x</textarea><svg><text>x</text></svg>",
        ] {
            assert_eq!(
                text_of(&format!("a{html}b")).replace('\n', ""),
                "ab",
                "{html}"
            );
        }
        assert_eq!(text_of("a<script>x"), "a");
    }

    #[test]
    fn what_is_left_out_ends_where_browsers_end_it() {
        for (html, expected) in [
            (
                "<p>Code</p><svg width=\"1\" height=\"1\"/><p>481516</p>",
                "Code\n\n481516",
            ),
            ("<math/>481516", "481516"),
            ("<svg><svg/><title/><style/><g></g></svg>481516", "481516"),
            (
                "<svg><title>x</title><script/><text>x</text></svg>481516",
                "481516",
            ),
            (
                "<table><tr><td><div style=\"display:none\">pre</td></tr><tr><td>481516</td></tr></table>",
                "481516",
            ),
            (
                "<table><tr><td><span hidden>pre<td>481516</table>",
                "481516",
            ),
            (
                "<table><tr><td><svg><path></td><td>481516</td></tr></table>",
                "481516",
            ),
            (
                "<table><tr><td><b hidden>pre</tr><tr><td>481516</td></tr></table>",
                "481516",
            ),
            ("<table><tr><td><div hidden>pre</table>481516", "481516"),
            (
                "<table><tr><td><div hidden><table><tr><td>x</td></tr></table>x</div>481516</td></tr></table>",
                "481516",
            ),
            (
                "<table><tr hidden><td>x</td><td>x</td></tr><tr><td>481516</td></tr></table>",
                "481516",
            ),
            ("<table><tr><td hidden>x<td>481516</table>", "481516"),
            (
                "<table hidden><tr><td><table><tr><td>x</table>x</table>481516",
                "481516",
            ),
            ("<p hidden>x<p>481516", "481516"),
            ("<div><p hidden>x</div>481516", "481516"),
            ("<ul><li hidden>x<ul><li>x</ul><li>481516</ul>", "- 481516"),
            ("<div><span hidden>x</div>481516", "481516"),
            (
                "<div hidden>x<section>x</section><div>x</div>x</div>481516",
                "481516",
            ),
            ("<a hidden href='https://a.example/'>x</a>481516", "481516"),
            (
                "<a hidden>x<a href='https://a.example/'>481516</a>",
                "481516 <https://a.example/>",
            ),
            (
                "<strong style='display: none'>x</strong><h1 hidden>x</h1><center hidden>x</center>481516",
                "481516",
            ),
            (
                "<img hidden alt='x'><img style='display:none' alt='x'>481516",
                "481516",
            ),
            ("<template><tr><td>x</td></tr></template>481516", "481516"),
        ] {
            assert_eq!(text_of(html), expected, "{html}");
        }
    }

    #[test]
    fn what_is_for_programs_without_scripts_is_read() {
        assert_eq!(
            text_of("<noscript><p>Open <b>this</b></p></noscript><p>481516</p>"),
            "Open this\n\n481516"
        );
        assert_eq!(text_of("<noframes><p>x</p></noframes>481516"), "481516");
    }

    #[test]
    fn the_first_of_two_attributes_counts() {
        for (html, expected) in [
            (
                "<a href='https://a.example/' href='https://b.example/'>x</a>",
                "x <https://a.example/>",
            ),
            ("<a href='' href='https://b.example/'>x</a>", "x"),
            ("<img alt='a' alt='b'>", "a"),
            ("<div style='color:red' style='display:none'>x</div>", "x"),
        ] {
            assert_eq!(text_of(html), expected, "{html}");
        }
    }

    #[test]
    fn blanks_alone_make_no_lines_and_end_none() {
        for (html, expected) in [
            ("<p>a</p><p>&nbsp;</p><p>b</p>", "a\n\nb"),
            ("a&nbsp;<br>b&nbsp;&nbsp;", "a\nb"),
            ("<pre>a  \n  b</pre>", "a\n  b"),
        ] {
            assert_eq!(text_of(html), expected, "{html}");
        }
    }

    #[test]
    fn no_control_character_is_in_the_text() {
        let text = text_of(
            "a\0b&#0;c&#8;d\x1be\u{7f}&#13;f&#x202e;g<a href='https://a.example/\x01'>h</a>",
        );
        assert!(
            !text.chars().any(|c| c.is_control() && c != '\n'),
            "{text:?}"
        );
    }

    /// Half a million characters of each, which is what a request may have.
    #[test]
    fn hostile_html_takes_memory_in_proportion_to_its_length() {
        let repeated = |piece: &str| piece.repeat(500_000 / piece.len());
        for html in [
            repeated("<div>"),
            repeated("<b>"),
            repeated("<p>"),
            repeated("<a href='https://a.example/'>"),
            repeated("<table>"),
            repeated("<ol><li>"),
            repeated("</p>"),
            repeated("<"),
            repeated("&"),
            repeated("<!--"),
            repeated("<div hidden>"),
            format!("<a {}>", repeated("a=1 ")),
            format!("<div style='{}'>", repeated("x:y;")),
            repeated("<font><p>"),
            repeated("<pre>"),
            repeated("&#x1F600;"),
            repeated("\n"),
            repeated("<li>"),
            repeated("<br>"),
        ] {
            let mut length = 0;
            let measured = allocation_counter::measure(|| length = text_of(&html).len());
            let piece = &html[..20.min(html.len())];
            assert!(length <= 2 * html.len(), "{length} bytes of {piece}");
            assert!(
                measured.bytes_max <= 12 * html.len() as u64,
                "{} bytes for {piece}",
                measured.bytes_max
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_html_ends_in_a_text(html in "(<(p|div|a href='https://x'|li|ol|pre|/p|/a|/ol|script|/script|br|!--|td hidden|svg/|svg|/svg|table|/table|/td|tr|p hidden|b hidden|title|/title)>?|[a-z &;]{0,5}|\\PC{0,3}){0,40}") {
            let text = text_of(&html);
            proptest::prop_assert!(!text.contains("\n\n\n\n"));
            proptest::prop_assert!(!text.ends_with(['\n', ' ']));
            proptest::prop_assert!(!text.contains(" \n"));
        }
    }
}
