//! Where messages go: e-mail addresses and phone numbers. Their `Debug` is masked and they have no
//! `Display`, so that an address reaches a log or an error only by being asked for by name.

use std::{fmt, str::FromStr};

use idna::AsciiDenyList;
use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::host::{MAX_HOST, MAX_LABEL};

/// Bytes of the local part, before the `@` (RFC 5321 section 4.5.3.1.1).
pub const MAX_LOCAL_PART: usize = 64;
/// Bytes of an address: a path is 256 octets with its angle brackets (RFC 5321 section 4.5.3.1.3).
pub const MAX_EMAIL: usize = 254;
/// Characters of a name that is shown beside an address.
pub const MAX_DISPLAY_NAME: usize = 128;
/// Characters of a phone number as it is written, of which 15 at most are digits (ITU-T E.164).
pub const MAX_PHONE_TEXT: usize = 32;

/// Why a text is not an address. The text itself is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AddressError {
    /// No `@`, or nothing before or after it.
    #[error("must be an e-mail address such as name@example.com")]
    NotAnAddress,
    /// The part before the `@`.
    #[error(
        "the part before the @ must be 1 to {} bytes without spaces, quotes, control \
         characters, empty parts between dots or =?",
        MAX_LOCAL_PART
    )]
    LocalPart,
    /// The part after the `@`.
    #[error(
        "the part after the @ must be a domain name such as example.com, of at most {} \
         characters and {} between dots",
        MAX_HOST,
        MAX_LABEL
    )]
    Domain,
    /// Longer than RFC 5321 allows in a path.
    #[error("must be at most {} bytes", MAX_EMAIL)]
    TooLong,
    /// Not a phone number in international form.
    #[error(
        "must be a phone number with its country code, such as +15550100: '+' and 7 to 15 digits, of at \
         most {} characters",
        MAX_PHONE_TEXT
    )]
    PhoneNumber,
    /// A phone number with other characters than it may have.
    #[error(
        "must be a phone number such as +15550100, with spaces, dots, hyphens and brackets between its digits and nothing else: no \
         slash, letter or no-break space"
    )]
    PhoneCharacter,
    /// A phone number without a country code, of a clinic that has set no country.
    #[error(
        "must be a phone number with its country code, such as +15550100; a number without it can be read if the \
         clinic's settings have a defaultCountry"
    )]
    NoCountry,
    /// A phone number without a country code that the clinic's country cannot have.
    #[error(
        "must be a phone number with its country code, such as +15550100, or a number of the clinic's defaultCountry"
    )]
    NationalNumber,
    /// A display name that cannot stand in a header.
    #[error(
        "must be at most {} characters without line breaks or control characters",
        MAX_DISPLAY_NAME
    )]
    DisplayName,
}

/// An e-mail address (RFC 5321 section 4.1.2, dot-atom local part; RFC 6531 for characters beyond
/// ASCII in it). The domain is kept in its ASCII form (RFC 5891) and lower case. Quoted local parts
/// and address literals are refused: nobody's mailbox has one, and forgers like them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EmailAddress {
    whole: String,
    at: usize,
}

impl EmailAddress {
    /// Reads an address. Characters of the domain beyond ASCII are converted (UTS 46).
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (local, domain) = text.rsplit_once('@').ok_or(AddressError::NotAnAddress)?;
        if local.is_empty() || domain.is_empty() {
            return Err(AddressError::NotAnAddress);
        }
        let local_ok = local.len() <= MAX_LOCAL_PART
            && local
                .split('.')
                .all(|atom| !atom.is_empty() && atom.chars().all(is_atext));
        if !local_ok {
            return Err(AddressError::LocalPart);
        }
        let domain = parse_domain(domain).ok_or(AddressError::Domain)?;
        let whole = format!("{local}@{domain}");
        if whole.len() > MAX_EMAIL {
            return Err(AddressError::TooLong);
        }
        Ok(Self {
            at: local.len(),
            whole,
        })
    }

    /// The same for an address that is to be used from now on: none that readers take for an encoded word and decode
    /// (RFC 2047 section 5), which would send answers to somebody else. One that is stored already stays readable.
    pub fn parse_new(text: &str) -> Result<Self, AddressError> {
        let address = Self::parse(text)?;
        if address.local().contains("=?") {
            return Err(AddressError::LocalPart);
        }
        Ok(address)
    }

    /// The address, its domain in ASCII.
    pub fn as_str(&self) -> &str {
        &self.whole
    }

    /// The part before the `@`.
    pub fn local(&self) -> &str {
        &self.whole[..self.at]
    }

    /// The part after the `@`, in ASCII.
    pub fn domain(&self) -> &str {
        &self.whole[self.at + 1..]
    }

    /// Whether the address needs SMTPUTF8 (RFC 6531).
    pub fn needs_smtputf8(&self) -> bool {
        !self.local().is_ascii()
    }

    /// The address as the ledger and answers show it: `p***@e***.com`, or `p***@example.com` with
    /// [`AddressMask::Domain`]. A part of one character is left out, since its first character would be all of it.
    pub fn masked(&self, mask: AddressMask) -> String {
        let local = first_of_many(self.local());
        let domain = self.domain();
        match mask {
            AddressMask::Domain => format!("{local}***@{domain}"),
            AddressMask::Short => {
                let (name, top_level) = domain.rsplit_once('.').unwrap_or((domain, ""));
                format!("{local}***@{}***.{top_level}", first_of_many(name))
            }
        }
    }
}

/// The first character of a text that has more than one.
fn first_of_many(text: &str) -> &str {
    match text.char_indices().nth(1) {
        Some((end, _)) => &text[..end],
        None => "",
    }
}

/// How much of an address the ledger and answers show: `ADDRESS_MASK`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AddressMask {
    /// `p***@e***.com` and `+***00`: enough to tell a clinic's recipients apart. Neither a rare domain nor a
    /// foreign country code singles anybody out.
    #[default]
    Short,
    /// `p***@example.com` and `+1***00`.
    Domain,
}

impl FromStr for AddressMask {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" | "short" => Ok(Self::Short),
            "domain" => Ok(Self::Domain),
            _ => Err("must be short or domain"),
        }
    }
}

/// `atext` of RFC 5322 section 3.2.3, with RFC 6531's `UTF8-non-ascii`, less what cannot be seen.
fn is_atext(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c)
    } else {
        !c.is_control() && !c.is_whitespace() && !is_invisible(c)
    }
}

/// Characters that a reader cannot see: all of Unicode's `Default_Ignorable_Code_Point`
/// (<https://www.unicode.org/Public/16.0.0/ucd/DerivedCoreProperties.txt>), and the separators and annotations beside
/// them that mail programs show as nothing.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffc}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

fn parse_domain(text: &str) -> Option<String> {
    let domain = idna::domain_to_ascii_cow(text.as_bytes(), AsciiDenyList::STD3)
        .ok()?
        .into_owned();
    let mut labels = 0;
    for label in domain.split('.') {
        let edges_ok = !label.starts_with('-') && !label.ends_with('-');
        if label.is_empty() || label.len() > MAX_LABEL || !edges_ok {
            return None;
        }
        labels += 1;
    }
    // A last label of digits only would be (part of) an IPv4 address: RFC 3696 section 2.
    let top_level = domain.rsplit('.').next()?;
    let is_name =
        labels >= 2 && domain.len() <= MAX_HOST && !top_level.bytes().all(|b| b.is_ascii_digit());
    is_name.then_some(domain)
}

impl fmt::Debug for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EmailAddress(…)")
    }
}

impl Serialize for EmailAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// An address with the name it is shown under.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Mailbox {
    /// The address.
    pub address: EmailAddress,
    /// The name, checked by [`Mailbox::parse_name`].
    pub name: Option<String>,
}

impl Mailbox {
    /// Checks a display name: at most [`MAX_DISPLAY_NAME`] characters, none of them a control character.
    pub fn parse_name(text: &str) -> Result<String, AddressError> {
        let name = text.trim();
        let ok = name.chars().count() <= MAX_DISPLAY_NAME && !name.chars().any(char::is_control);
        if ok {
            Ok(name.to_owned())
        } else {
            Err(AddressError::DisplayName)
        }
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mailbox(…)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn internationalised_domains_become_ascii_and_lower_case() {
        let address = EmailAddress::parse("Jörg@Bücher.Example").unwrap();
        assert_eq!(address.as_str(), "Jörg@xn--bcher-kva.example");
        assert!(address.needs_smtputf8());
        assert!(
            !EmailAddress::parse("jorg@bücher.example")
                .unwrap()
                .needs_smtputf8()
        );
    }

    #[test]
    fn addresses_that_are_none_are_refused_with_the_part_at_fault() {
        use AddressError::{Domain, LocalPart, NotAnAddress, TooLong};
        for (text, error) in [
            ("", NotAnAddress),
            ("name", NotAnAddress),
            ("@example.com", NotAnAddress),
            ("name@", NotAnAddress),
            ("na me@example.com", LocalPart),
            ("a@b@example.com", LocalPart),
            (".name@example.com", LocalPart),
            ("na..me@example.com", LocalPart),
            ("\"quoted\"@example.com", LocalPart),
            ("name\r\nBcc: x@example.com", LocalPart),
            ("zero\u{200b}width@example.com", LocalPart),
            ("mongolian\u{180e}@example.com", LocalPart),
            ("variation\u{fe0f}@example.com", LocalPart),
            ("filler\u{3164}@example.com", LocalPart),
            ("halfwidth\u{ffa0}@example.com", LocalPart),
            ("letter\u{61c}mark@example.com", LocalPart),
            ("grapheme\u{34f}joiner@example.com", LocalPart),
            ("braille\u{2800}blank@example.com", LocalPart),
            ("tag\u{e0041}@example.com", LocalPart),
            ("variation\u{e0100}@example.com", LocalPart),
            ("name@example", Domain),
            ("name@exa mple.com", Domain),
            ("name@-example.com", Domain),
            ("name@example..com", Domain),
            ("name@example.com.", Domain),
            ("name@[127.0.0.1]", Domain),
            ("name@127.0.0.1", Domain),
            ("name@example.com\r\nDATA", Domain),
        ] {
            assert_eq!(EmailAddress::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(
            EmailAddress::parse(&format!("{}@example.com", "a".repeat(65))),
            Err(LocalPart)
        );
        let long = format!(
            "{}@{}.com",
            "a".repeat(64),
            [
                "b".repeat(60),
                "c".repeat(60),
                "d".repeat(60),
                "e".repeat(9)
            ]
            .join(".")
        );
        assert_eq!(EmailAddress::parse(&long), Err(TooLong));
    }

    #[test]
    fn an_address_that_readers_decode_is_read_where_stored_and_refused_where_new() {
        for text in ["=?utf-8?q?hi?=@example.com", "a=?b@example.com"] {
            assert_eq!(EmailAddress::parse_new(text), Err(AddressError::LocalPart));
            assert!(EmailAddress::parse(text).is_ok());
        }
        assert!(EmailAddress::parse_new("a=b?c@example.com").is_ok());
        assert_eq!(
            EmailAddress::parse_new("a"),
            Err(AddressError::NotAnAddress)
        );
    }

    #[test]
    fn masks_and_debug_do_not_tell_who_it_is() {
        for (address, short, domain) in [
            ("patient@example.com", "p***@e***.com", "p***@example.com"),
            ("p@example.com", "***@e***.com", "***@example.com"),
            ("jörg@x.example", "j***@***.example", "j***@x.example"),
            ("öko@mail.a.co.uk", "ö***@m***.uk", "ö***@mail.a.co.uk"),
        ] {
            let address = EmailAddress::parse(address).unwrap();
            assert_eq!(address.masked(AddressMask::Short), short);
            assert_eq!(address.masked(AddressMask::Domain), domain);
            assert!(!format!("{address:?}").contains(address.local()));
        }
    }

    proptest! {
        #[test]
        fn an_accepted_address_holds_nothing_that_ends_a_command_or_header(text in ".{0,80}") {
            if let Ok(address) = EmailAddress::parse(&text) {
                prop_assert!(!address.as_str().chars().any(|c| c.is_control() || c.is_whitespace() || "<>,;:\"()[]\\".contains(c)));
                prop_assert_eq!(EmailAddress::parse(address.as_str()), Ok(address.clone()));
            }
        }

        #[test]
        fn usual_addresses_are_accepted(local in "[a-z0-9]{1,20}(\\.[a-z0-9+_-]{1,20})?", domain in "[a-z0-9]{1,20}\\.[a-z]{2,10}") {
            prop_assume!(!domain.starts_with("xn--"));
            let text = format!("{local}@{domain}");
            let address = EmailAddress::parse(&text).unwrap();
            prop_assert_eq!(address.as_str(), text.as_str());
        }
    }
}
