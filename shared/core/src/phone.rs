//! Phone numbers, read by libphonenumber's numbering plans.

use std::fmt;

use rlibphonenumber::{PHONE_NUMBER_UTIL, PhoneNumberFormat};
use serde::{Serialize, Serializer};

use crate::{
    address::{AddressError, AddressMask, MAX_PHONE_TEXT},
    country::Country,
};

/// A phone number in E.164 form (ITU-T E.164: at most 15 digits): `+` and 7 to 15 digits with a country code that exists.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PhoneNumber(String);

impl PhoneNumber {
    /// Reads a number in international form; spaces, dots, hyphens and brackets are dropped.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        Self::parse_in(None, text)
    }

    /// The same, and in a country also a number as it is dialled there: with or without the prefix for calls within the
    /// country, or with the one for calls abroad.
    pub fn parse_in(country: Option<Country>, text: &str) -> Result<Self, AddressError> {
        let trimmed = text.trim();
        let is_international = trimmed.starts_with('+');
        // The library reads letters as keypad digits and `;ext=`; neither is a number to send to.
        let has_digits = trimmed.contains(|c: char| c.is_ascii_digit());
        if trimmed.len() > MAX_PHONE_TEXT || !has_digits {
            return Err(AddressError::PhoneNumber);
        }
        let mut characters = trimmed[usize::from(is_international)..].chars();
        if !characters.all(|c| c.is_ascii_digit() || " .-()".contains(c)) {
            return Err(AddressError::PhoneCharacter);
        }
        let region = match (is_international, country) {
            (true, _) => None,
            (false, Some(country)) => Some(country.region()),
            (false, None) => return Err(AddressError::NoCountry),
        };
        let refused = match region {
            None => AddressError::PhoneNumber,
            Some(_) => AddressError::NationalNumber,
        };
        let number = PHONE_NUMBER_UTIL
            .parse(trimmed, region)
            .map_err(|_| refused)?;
        // Who writes a country code means it; what is left to guess has to be a number of its country.
        if !is_international && !PHONE_NUMBER_UTIL.is_possible_number(&number) {
            return Err(refused);
        }
        let text = number.format_as(PhoneNumberFormat::E164).into_owned();
        if !(8..=16).contains(&text.len()) {
            return Err(refused);
        }
        let digits = trimmed.bytes().filter(u8::is_ascii_digit);
        let is_as_given = digits.eq(text[1..].bytes());
        // What the library left out was a prefix for calls within a country. Where it would leave out more of what is left,
        // it has not understood the number, and whose it is would depend on how often it is read.
        if is_as_given || Self::parse(&text).is_ok_and(|again| again.0 == text) {
            Ok(Self(text))
        } else {
            Err(refused)
        }
    }

    /// The number in E.164 form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number as the ledger and answers show it: `+***00`, or `+1***00` with [`AddressMask::Domain`].
    pub fn masked(&self, mask: AddressMask) -> String {
        let shown = match mask {
            AddressMask::Short => 1,
            AddressMask::Domain => 2,
        };
        format!("{}***{}", &self.0[..shown], &self.0[self.0.len() - 2..])
    }
}

impl fmt::Debug for PhoneNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PhoneNumber(…)")
    }
}

impl Serialize for PhoneNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Country, number as written there, as written abroad, E.164.
    fn examples() -> impl Iterator<Item = [&'static str; 4]> {
        let table = include_str!("../../../tests/fixtures/phone/mobile-examples.tsv");
        let rows = table.lines().filter(|line| !line.starts_with('#'));
        rows.map(|line| line.split('\t').collect::<Vec<_>>().try_into().unwrap())
    }

    #[test]
    fn a_number_of_every_country_is_read_as_it_is_written_there_and_abroad() {
        let mut rows = 0;
        for [country, national, international, e164] in examples() {
            let number = PhoneNumber::parse(international).unwrap();
            assert_eq!(number.as_str(), e164);
            assert_eq!(PhoneNumber::parse(e164), Ok(number.clone()));
            let country = Country::parse(country).unwrap();
            let there = PhoneNumber::parse_in(Some(country), national);
            // ITU-T E.164 has no numbers so short: some islands do.
            if e164.len() >= 8 {
                assert_eq!(there, Ok(number), "{country:?} {national}");
            }
            rows += 1;
        }
        assert!(rows >= 200, "{rows}");
    }

    #[test]
    fn a_number_without_a_country_code_needs_the_country() {
        let germany = Country::parse("DE").ok();
        for text in [
            "0171 1234567",
            "171 1234567",
            "(0171) 123-4567",
            "0049 171 1234567",
            "+49 171 1234567",
        ] {
            let number = PhoneNumber::parse_in(germany, text).unwrap();
            assert_eq!(number.as_str(), "+491711234567", "{text}");
        }
        // Another country's, written out.
        let number = PhoneNumber::parse_in(germany, "+1 415 555 2671").unwrap();
        assert_eq!(number.as_str(), "+14155552671");
        assert_eq!(
            PhoneNumber::parse("0171 1234567"),
            Err(AddressError::NoCountry)
        );
        for text in ["110", "1", "0", "01711234567890123", "0171 CALL", "", "()"] {
            assert!(PhoneNumber::parse_in(germany, text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_character_that_no_number_has_is_what_the_error_names() {
        for text in [
            "0171/1234567",
            "0171\u{a0}1234567",
            "+49 171/1234567",
            "0171 CALL",
        ] {
            for country in [None, Country::parse("DE").ok()] {
                let refused = PhoneNumber::parse_in(country, text);
                assert_eq!(refused, Err(AddressError::PhoneCharacter), "{text:?}");
            }
        }
    }

    #[test]
    fn masks_and_debug_do_not_tell_the_number() {
        let phone = PhoneNumber::parse("+15550100").unwrap();
        assert_eq!(phone.masked(AddressMask::Short), "+***00");
        assert_eq!(phone.masked(AddressMask::Domain), "+1***00");
        assert!(!format!("{phone:?}").contains("555"));
    }

    #[test]
    fn a_phone_number_that_becomes_another_when_it_is_read_again_is_refused() {
        assert_eq!(
            PhoneNumber::parse("+20.00001183754451"),
            Err(AddressError::PhoneNumber)
        );
        // One prefix is what people write, and no more is left out of what is left.
        let number = PhoneNumber::parse("+44 (0) 20 7946 0018").unwrap();
        assert_eq!(number.as_str(), "+442079460018");
        assert_eq!(PhoneNumber::parse(number.as_str()), Ok(number));
    }

    #[test]
    fn phone_numbers_are_brought_into_e164_form() {
        for (text, e164) in [
            ("+15550100", "+15550100"),
            ("+1 (415) 555-2671", "+14155552671"),
            ("+44 20 7946 0018", "+442079460018"),
            ("+39 06 1234 5678", "+390612345678"),
            ("+59 89.4231 234", "+59894231234"),
        ] {
            assert_eq!(PhoneNumber::parse(text).unwrap().as_str(), e164);
        }
        for text in [
            "",
            "+",
            "4155552671",
            "0044 20 7946 0018",
            "+1",
            "+999 1234567",
            "+1415555CALL",
            "+14155552671;ext=5",
            "tel:+14155552671",
            "+1415555267112345678",
            "+１４１５５５５２６７１",
        ] {
            assert!(PhoneNumber::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn phone_parsing_never_panics_and_is_stable(text in "\\+?[0-9 ().a-z-]{0,24}") {
            if let Ok(phone) = PhoneNumber::parse(&text) {
                prop_assert_eq!(PhoneNumber::parse(phone.as_str()), Ok(phone.clone()));
            }
        }

        #[test]
        fn a_number_of_a_country_stays_what_it_is(text in "[0-9 ().-]{0,24}", country in "DE|US|IN|GB|BR|IT|AR") {
            if let Ok(phone) = PhoneNumber::parse_in(Country::parse(&country).ok(), &text) {
                prop_assert_eq!(PhoneNumber::parse(phone.as_str()), Ok(phone.clone()));
            }
        }
    }
}
