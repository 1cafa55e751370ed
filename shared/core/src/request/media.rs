//! A file that the provider fetches and shows.

use serde::Serialize;

use crate::{
    attachment::parse_filename,
    json::{Object, read},
    public_url::PublicUrl,
};

/// A file that the provider fetches and shows, for WhatsApp.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Media {
    /// How it is shown.
    #[serde(rename = "type")]
    pub kind: MediaKind,
    /// Where the provider fetches it.
    pub url: PublicUrl,
    /// The name under which the recipient sees a document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
}

/// How a medium is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaKind {
    /// A picture.
    Image,
    /// A film.
    Video,
    /// A file, such as a PDF.
    Document,
}

impl MediaKind {
    /// The name in requests, and at Meta.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Video => "video",
            Self::Document => "document",
        }
    }
}

pub(super) fn read_media(mut object: Object<'_>) -> Option<Media> {
    let kind = object.required(
        "type",
        read::one_of(&[
            ("image", MediaKind::Image),
            ("video", MediaKind::Video),
            ("document", MediaKind::Document),
        ]),
    );
    let url = object.required("url", read::parsed(PublicUrl::parse));
    let filename = object.optional("filename", read::parsed(parse_filename));
    if filename.is_some() && kind.is_some_and(|kind| kind != MediaKind::Document) {
        object.problem("filename", "is for a document only");
    }
    object.finish();
    Some(Media {
        kind: kind?,
        url: url?,
        filename,
    })
}
