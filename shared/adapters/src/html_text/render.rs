//! Plain text out of the events of an HTML tokenizer.

use html5gum::{State, emitters::callback::CallbackEvent};

use super::skip::{Skip, SkipPosition, is_foreign, is_hideable};

/// Lists in lists whose items are counted; deeper ones have dashes.
const MAX_COUNTED_LISTS: usize = 16;
/// Characters of an attribute that are looked at: a longer `style` hides nothing, a longer `href` is no link.
const MAX_ATTRIBUTE: usize = 4_096;

pub(super) struct Renderer {
    text: String,
    /// What is written before the next word.
    gap: Gap,
    /// The element that is being begun.
    opening: Element,
    href: Vec<u8>,
    alt: Vec<u8>,
    is_hidden: bool,
    /// The name of the element that is being begun, where its content can be left out.
    hideable: Option<Vec<u8>>,
    attribute: Attribute,
    /// Those that the element has had: of two with one name the first counts (WHATWG HTML section 13.2.5.33).
    attributes: Vec<Attribute>,
    /// How the tokenizer is to read on.
    state: Option<State>,
    /// The element whose content is left out.
    skipped: Option<Skip>,
    /// Where the open link goes, and where its text begins.
    link: Option<(String, usize)>,
    /// The numbers of the open lists' items; `None` in a list without.
    lists: Vec<Option<u32>>,
    deeper_lists: usize,
    preformatted: usize,
}

/// What stands between two pieces of text, the larger one last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Gap {
    Nothing,
    Space,
    Line,
    Paragraph,
}

/// What an element does to the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    Inline,
    /// On lines of its own.
    Block,
    /// With an empty line around it.
    Paragraph,
    LineBreak,
    Cell,
    Link,
    Picture,
    Item,
    List {
        is_numbered: bool,
    },
    Preformatted,
    /// Not for readers.
    Unread,
}

/// The attributes that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attribute {
    Href,
    Alt,
    Style,
    Other,
}

impl Renderer {
    pub(super) fn new(length: usize) -> Self {
        Self {
            text: String::with_capacity(length / 4),
            gap: Gap::Nothing,
            opening: Element::Inline,
            href: Vec::new(),
            alt: Vec::new(),
            is_hidden: false,
            hideable: None,
            attribute: Attribute::Other,
            attributes: Vec::new(),
            state: None,
            skipped: None,
            link: None,
            lists: Vec::new(),
            deeper_lists: 0,
            preformatted: 0,
        }
    }

    /// Takes an event, and says how the tokenizer is to read on where it is not as before.
    pub(super) fn take(&mut self, event: &CallbackEvent<'_>) -> Option<State> {
        match event {
            CallbackEvent::OpenStartTag { name } => self.open(name),
            CallbackEvent::AttributeName { name } => {
                self.attribute = attribute(name);
                if self.attributes.contains(&self.attribute) {
                    self.attribute = Attribute::Other;
                } else if self.attribute != Attribute::Other {
                    self.attributes.push(self.attribute);
                }
                self.is_hidden |= *name == b"hidden";
            }
            CallbackEvent::AttributeValue { value } => self.attribute_value(value),
            CallbackEvent::CloseStartTag { self_closing } => {
                self.begin();
                if let Some(skipped) = self.skipped.as_mut().filter(|_| *self_closing)
                    && skipped.close_itself() == SkipPosition::Last
                {
                    self.skipped = None;
                }
                return self.state.take();
            }
            CallbackEvent::EndTag { name } => self.end(name),
            CallbackEvent::String { value } => {
                if self.skipped.is_none() {
                    self.push(&String::from_utf8_lossy(value));
                }
            }
            CallbackEvent::Comment { .. }
            | CallbackEvent::Doctype { .. }
            | CallbackEvent::Error(_) => {}
        }
        None
    }

    pub(super) fn finish(mut self) -> String {
        self.end_link();
        let end = self.text.trim_end().len();
        self.text.truncate(end);
        self.text
    }

    fn open(&mut self, name: &[u8]) {
        self.attribute = Attribute::Other;
        self.is_hidden = false;
        self.attributes.clear();
        self.href.clear();
        self.alt.clear();
        self.hideable = None;
        let is_foreign = is_foreign(name) || self.skipped.as_ref().is_some_and(Skip::is_foreign);
        self.state = raw_state(name).filter(|_| !is_foreign);
        if let Some(skipped) = &mut self.skipped {
            if skipped.start(name) == SkipPosition::Inside {
                self.opening = Element::Inline;
                return;
            }
            self.skipped = None;
        }
        self.opening = element(name);
        if self.opening == Element::Unread {
            self.skipped = Some(Skip::new(name));
        }
        self.hideable = is_hideable(name).then(|| name.to_vec());
    }

    fn attribute_value(&mut self, value: &[u8]) {
        let value = &value[..value.len().min(MAX_ATTRIBUTE + 1)];
        match self.attribute {
            Attribute::Href if self.opening == Element::Link => value.clone_into(&mut self.href),
            Attribute::Alt if self.opening == Element::Picture => value.clone_into(&mut self.alt),
            Attribute::Style => self.is_hidden |= hides(value),
            Attribute::Href | Attribute::Alt | Attribute::Other => {}
        }
    }

    /// The start tag has ended.
    fn begin(&mut self) {
        if self.skipped.is_some() {
            return;
        }
        if self.is_hidden
            && let Some(name) = self.hideable.take()
        {
            self.skipped = Some(Skip::new(&name));
            return;
        }
        match self.opening {
            Element::Inline | Element::Unread => {}
            Element::Block => self.widen(Gap::Line),
            Element::Paragraph => self.widen(Gap::Paragraph),
            Element::LineBreak => self.line_break(),
            Element::Cell => self.widen(Gap::Space),
            Element::Link => {
                self.end_link();
                let target = link_target(&self.href);
                self.link = target.map(|target| (target, self.text.len()));
            }
            Element::Picture if self.is_hidden => {}
            Element::Picture => {
                let alt = std::mem::take(&mut self.alt);
                self.push(&String::from_utf8_lossy(&alt));
            }
            Element::Item => self.begin_item(),
            Element::List { is_numbered } => {
                self.widen(if self.lists.is_empty() {
                    Gap::Paragraph
                } else {
                    Gap::Line
                });
                if self.lists.len() < MAX_COUNTED_LISTS {
                    self.lists.push(is_numbered.then_some(0));
                } else {
                    self.deeper_lists += 1;
                }
            }
            Element::Preformatted => {
                self.widen(Gap::Paragraph);
                self.preformatted += 1;
            }
        }
    }

    fn begin_item(&mut self) {
        self.widen(Gap::Line);
        let number = self.lists.last_mut().and_then(Option::as_mut);
        let mark = match number {
            Some(number) if self.deeper_lists == 0 => {
                *number = number.saturating_add(1);
                format!("{number}. ")
            }
            Some(_) | None => "- ".to_owned(),
        };
        self.push_gap();
        self.text.push_str(&mark);
    }

    fn end(&mut self, name: &[u8]) {
        if let Some(skipped) = &mut self.skipped {
            match skipped.end(name) {
                SkipPosition::Inside => return,
                SkipPosition::Last => {
                    self.skipped = None;
                    return;
                }
                SkipPosition::Behind => self.skipped = None,
            }
        }
        match element(name) {
            Element::Block | Element::Item => self.widen(Gap::Line),
            Element::Paragraph => self.widen(Gap::Paragraph),
            Element::Cell => self.widen(Gap::Space),
            Element::Link => self.end_link(),
            Element::List { .. } => {
                if let Some(deeper) = self.deeper_lists.checked_sub(1) {
                    self.deeper_lists = deeper;
                } else {
                    self.lists.pop();
                }
                self.widen(if self.lists.is_empty() {
                    Gap::Paragraph
                } else {
                    Gap::Line
                });
            }
            Element::Preformatted => {
                self.preformatted = self.preformatted.saturating_sub(1);
                self.widen(Gap::Paragraph);
            }
            Element::Inline | Element::LineBreak | Element::Picture | Element::Unread => {}
        }
    }

    /// Writes where the open link goes, unless its text says so.
    fn end_link(&mut self) {
        let Some((target, start)) = self.link.take() else {
            return;
        };
        let text = self.text.get(start..).unwrap_or_default().trim();
        let address = target
            .split_once(':')
            .map_or(target.as_str(), |(_, address)| address);
        if text != target && text != address {
            if !text.is_empty() {
                self.gap = self.gap.max(Gap::Space);
            }
            let after = std::mem::replace(&mut self.gap, Gap::Space);
            self.push_gap();
            self.text.push('<');
            self.text.push_str(&target);
            self.text.push('>');
            self.gap = if after > Gap::Space {
                after
            } else {
                Gap::Nothing
            };
        }
    }

    fn widen(&mut self, gap: Gap) {
        self.gap = self.gap.max(gap);
    }

    /// Two of them leave an empty line, more do not leave more.
    fn line_break(&mut self) {
        self.gap = if self.gap < Gap::Line {
            Gap::Line
        } else {
            Gap::Paragraph
        };
    }

    fn push_gap(&mut self) {
        let gap = std::mem::replace(&mut self.gap, Gap::Nothing);
        if self.text.is_empty() {
            return;
        }
        if gap >= Gap::Line {
            let end = self.text.trim_end_matches(' ').len();
            self.text.truncate(end);
            if let Some((_, start)) = &mut self.link {
                *start = end.min(*start);
            }
        }
        let at_a_line = self.text.ends_with('\n');
        match gap {
            Gap::Nothing => {}
            Gap::Space if self.text.ends_with([' ', '\n']) => {}
            Gap::Space => self.text.push(' '),
            Gap::Line if at_a_line => {}
            Gap::Line => self.text.push('\n'),
            Gap::Paragraph if at_a_line => self.text.push('\n'),
            Gap::Paragraph => self.text.push_str("\n\n"),
        }
    }

    /// Writes text: white space as one space, in `<pre>` as it is.
    fn push(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '\n' | '\r' if self.preformatted > 0 => self.line_break(),
                ' ' | '\t' | '\u{a0}' if self.preformatted > 0 => {
                    self.push_gap();
                    self.text.push(' ');
                }
                // A no-break space too: where no word follows, it is there for the look.
                ' ' | '\t' | '\n' | '\r' | '\x0c' | '\u{a0}' => self.widen(Gap::Space),
                // The byte order mark is no more than the mark of an encoding here.
                character if character.is_control() || character == '\u{feff}' => {}
                character => {
                    self.push_gap();
                    self.text.push(character);
                }
            }
        }
    }
}

/// What an element does, by its name in lower case (<https://html.spec.whatwg.org/multipage/rendering.html>).
fn element(name: &[u8]) -> Element {
    match name {
        b"p" | b"h1" | b"h2" | b"h3" | b"h4" | b"h5" | b"h6" | b"blockquote" | b"dl" => {
            Element::Paragraph
        }
        b"div" | b"table" | b"tr" | b"section" | b"article" | b"header" | b"footer" | b"main"
        | b"nav" | b"aside" | b"address" | b"center" | b"figure" | b"figcaption" | b"fieldset"
        | b"form" | b"hr" | b"dt" | b"dd" | b"caption" | b"body" => Element::Block,
        b"br" => Element::LineBreak,
        b"td" | b"th" => Element::Cell,
        b"a" => Element::Link,
        b"img" => Element::Picture,
        b"li" => Element::Item,
        b"ul" | b"menu" => Element::List { is_numbered: false },
        b"ol" => Element::List { is_numbered: true },
        b"pre" => Element::Preformatted,
        b"script" | b"style" | b"title" | b"template" | b"textarea" | b"svg" | b"math"
        | b"iframe" | b"object" | b"select" | b"noembed" | b"noframes" | b"xmp" => Element::Unread,
        _ => Element::Inline,
    }
}

/// How the text in an element is read whose content is no markup (WHATWG HTML section 13.2.6.4). `noscript` is none of them:
/// mail programs run no scripts.
fn raw_state(name: &[u8]) -> Option<State> {
    match name {
        b"textarea" | b"title" => Some(State::RcData),
        b"plaintext" => Some(State::PlainText),
        b"script" => Some(State::ScriptData),
        b"style" | b"iframe" | b"xmp" | b"noembed" | b"noframes" => Some(State::RawText),
        _ => None,
    }
}

fn attribute(name: &[u8]) -> Attribute {
    match name {
        b"href" => Attribute::Href,
        b"alt" => Attribute::Alt,
        b"style" => Attribute::Style,
        _ => Attribute::Other,
    }
}

/// Whether a style has `display:none` in it.
fn hides(style: &[u8]) -> bool {
    if style.len() > MAX_ATTRIBUTE {
        return false;
    }
    let plain: Vec<u8> = style
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(u8::to_ascii_lowercase)
        .collect();
    memchr::memmem::find(&plain, b"display:none").is_some()
}

/// A link that a reader of the text can follow; none to a place in the document, and none that is a script.
fn link_target(href: &[u8]) -> Option<String> {
    let href = std::str::from_utf8(href).ok()?.trim();
    let (scheme, _) = href.split_once(':')?;
    let is_followed = ["https", "http", "mailto", "tel", "sms"]
        .iter()
        .any(|known| scheme.eq_ignore_ascii_case(known));
    if !is_followed || href.len() > MAX_ATTRIBUTE {
        return None;
    }
    // As browsers do: a tab or a line end in a URL is none of it, a space is escaped (WHATWG URL, "basic URL parser").
    let visible = href.chars().filter(|character| !character.is_control());
    Some(
        visible
            .map(String::from)
            .collect::<String>()
            .replace(' ', "%20")
            .replace('<', "%3C")
            .replace('>', "%3E"),
    )
}
