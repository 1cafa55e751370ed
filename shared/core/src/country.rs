//! Countries by their codes.

use std::fmt;

use rlibphonenumber::{PHONE_NUMBER_UTIL, Region};
use serde::{Serialize, Serializer};

/// A country whose phone numbers libphonenumber knows: by its code of ISO 3166-1 alpha-2, without `AQ`, `BV`, `GS`, `HM`, `PN`,
/// `TF` and `UM`, which have no numbers of their own, and with `AC`, `TA` and `XK`, which have.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Country(Region);

impl Country {
    /// Reads a code in capital letters, such as `DE`.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const REFUSED: &str = "must be the code of a country that has phone numbers, in capital letters, such as DE (ISO 3166-1 alpha-2)";
        let is_code = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_uppercase());
        if !is_code {
            return Err(REFUSED);
        }
        let region = Region::try_from(text).map_err(|_| REFUSED)?;
        let has_numbers = PHONE_NUMBER_UTIL
            .get_country_code_for_region(region)
            .is_some();
        has_numbers.then_some(Self(region)).ok_or(REFUSED)
    }

    /// The region of the numbering plans.
    pub(crate) const fn region(self) -> Region {
        self.0
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Country {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_country_is_two_capital_letters_that_have_numbers() {
        for code in ["DE", "US", "IN", "GB", "ZW"] {
            let country = Country::parse(code).unwrap();
            assert_eq!(country.to_string(), code);
            assert_eq!(serde_json::json!(country), code);
        }
        for text in [
            "", "D", "de", "DEU", "49", "+4", "001", "ZZ", "XX", "UK", "ДЕ",
        ] {
            assert!(Country::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn countries_are_those_that_have_phone_numbers() {
        let letters = || (b'A'..=b'Z').map(char::from);
        let codes = letters().flat_map(|one| letters().map(move |two| format!("{one}{two}")));
        assert_eq!(
            codes.filter(|code| Country::parse(code).is_ok()).count(),
            245
        );
        for code in ["AC", "TA", "XK"] {
            assert!(Country::parse(code).is_ok(), "{code}");
        }
        for code in ["AQ", "BV", "GS", "HM", "PN", "TF", "UM"] {
            let refused = Country::parse(code).unwrap_err();
            assert!(refused.contains("that has phone numbers"), "{code}");
        }
    }
}
