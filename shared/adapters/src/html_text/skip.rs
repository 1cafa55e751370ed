//! Content that readers do not see, and where it ends.
//!
//! No tree says which tags close which elements, so these are the rules of the tree construction that matter here
//! (<https://html.spec.whatwg.org/multipage/parsing.html#tree-construction>). Where they leave a doubt, the content ends: text
//! that is shown and should not be does less harm than a code that is missing.

/// An element whose content is left out, from its start tag on.
pub(super) struct Skip {
    name: Vec<u8>,
    ends: Ends,
    /// How often an element of this name is open.
    open: usize,
    /// Whether the last start tag was counted in `open`.
    is_counted: bool,
    /// Tables that are open inside.
    tables: usize,
    /// Other containers that are open inside.
    containers: usize,
}

/// What ends an element beside its own end tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ends {
    /// Nothing.
    ByName,
    /// A cell, row or table around it.
    WithCell,
    /// Any container around it.
    WithContainer,
}

/// What a tag does to the element that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SkipPosition {
    /// It is inside.
    Inside,
    /// It is the element's end tag.
    Last,
    /// The element has ended before it.
    Behind,
}

/// What tables are made of, the outer one last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Cell,
    Row,
    Group,
    Table,
    Document,
}

impl Skip {
    pub(super) fn new(name: &[u8]) -> Self {
        let ends = match name {
            b"template" | b"title" | b"textarea" | b"script" | b"style" | b"iframe" | b"xmp"
            | b"noembed" | b"noframes" => Ends::ByName,
            b"object" | b"select" | b"a" | b"b" | b"strong" | b"i" | b"em" | b"u" | b"s"
            | b"small" | b"big" | b"font" | b"code" => Ends::WithCell,
            _ => Ends::WithContainer,
        };
        Self {
            name: name.to_vec(),
            ends,
            open: 1,
            is_counted: true,
            tables: 0,
            containers: 0,
        }
    }

    /// Whether tags inside are not HTML: a slash at the end closes them, and none has text that is not markup
    /// (WHATWG HTML section 13.2.6.5).
    pub(super) fn is_foreign(&self) -> bool {
        is_foreign(&self.name)
    }

    /// A start tag, which is inside or behind.
    pub(super) fn start(&mut self, name: &[u8]) -> SkipPosition {
        self.is_counted = false;
        if self.ends != Ends::ByName {
            let is_around = rank(name).is_some_and(|rank| rank < Rank::Table && self.is_in(rank));
            let is_sibling = match self.name.as_slice() {
                b"a" => name == b"a",
                b"li" => name == b"li" && self.containers == 0,
                b"p" => {
                    is_container(name)
                        || is_heading(name)
                        || matches!(name, b"p" | b"table" | b"hr")
                }
                _ => false,
            };
            if is_sibling || (self.tables == 0 && is_around) {
                return SkipPosition::Behind;
            }
        }
        if name == self.name {
            self.open += 1;
            self.is_counted = true;
        } else if is_container(name) {
            self.containers += 1;
        }
        self.tables += usize::from(name == b"table");
        SkipPosition::Inside
    }

    /// The end of a start tag with a slash before its `>`.
    pub(super) fn close_itself(&mut self) -> SkipPosition {
        if self.is_foreign() && self.is_counted {
            self.is_counted = false;
            return self.close();
        }
        SkipPosition::Inside
    }

    pub(super) fn end(&mut self, name: &[u8]) -> SkipPosition {
        if self.ends != Ends::ByName
            && let Some(rank) = rank(name)
        {
            if rank < Rank::Document && self.tables > 0 {
                self.tables -= usize::from(rank == Rank::Table);
                return SkipPosition::Inside;
            }
            if name == self.name {
                return SkipPosition::Last;
            }
            return if self.is_in(rank) {
                SkipPosition::Behind
            } else {
                SkipPosition::Inside
            };
        }
        if name == self.name {
            return self.close();
        }
        if self.ends == Ends::WithContainer && is_container(name) {
            let Some(containers) = self.containers.checked_sub(1) else {
                return SkipPosition::Behind;
            };
            self.containers = containers;
        }
        SkipPosition::Inside
    }

    fn close(&mut self) -> SkipPosition {
        self.open = self.open.saturating_sub(1);
        if self.open == 0 {
            SkipPosition::Last
        } else {
            SkipPosition::Inside
        }
    }

    /// Whether a part of a table of this rank ends with, or has around it, the element.
    fn is_in(&self, around: Rank) -> bool {
        rank(&self.name).is_none_or(|own| own <= around)
    }
}

pub(super) fn is_foreign(name: &[u8]) -> bool {
    matches!(name, b"svg" | b"math")
}

/// Whether an element can be left out that a style hides: those that have content and end in one of the ways above.
pub(super) fn is_hideable(name: &[u8]) -> bool {
    rank(name).is_some_and(|rank| rank < Rank::Document)
        || is_container(name)
        || is_heading(name)
        || matches!(
            name,
            b"span"
                | b"p"
                | b"li"
                | b"a"
                | b"b"
                | b"strong"
                | b"i"
                | b"em"
                | b"u"
                | b"s"
                | b"small"
                | b"big"
                | b"font"
                | b"code"
                | b"label"
                | b"button"
        )
}

fn is_heading(name: &[u8]) -> bool {
    matches!(name, b"h1" | b"h2" | b"h3" | b"h4" | b"h5" | b"h6")
}

/// Elements whose end tag ends what is open in them. A paragraph ends where one of them begins.
fn is_container(name: &[u8]) -> bool {
    matches!(
        name,
        b"div"
            | b"section"
            | b"article"
            | b"header"
            | b"footer"
            | b"main"
            | b"nav"
            | b"aside"
            | b"address"
            | b"center"
            | b"blockquote"
            | b"figure"
            | b"figcaption"
            | b"fieldset"
            | b"form"
            | b"ul"
            | b"ol"
            | b"menu"
            | b"dl"
            | b"pre"
    )
}

fn rank(name: &[u8]) -> Option<Rank> {
    match name {
        b"td" | b"th" | b"caption" => Some(Rank::Cell),
        b"tr" => Some(Rank::Row),
        b"tbody" | b"thead" | b"tfoot" => Some(Rank::Group),
        b"table" => Some(Rank::Table),
        b"body" | b"html" => Some(Rank::Document),
        _ => None,
    }
}
