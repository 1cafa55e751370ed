//! Countries by their codes.

use std::fmt;

use rlibphonenumber::{PHONE_NUMBER_UTIL, Region};
use serde::{Serialize, Serializer};

/// A country: its code of ISO 3166-1 alpha-2, of those that have phone numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Country(Region);

impl Country {
    /// Reads a code in capital letters, such as `DE`.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const REFUSED: &str =
            "must be a country's code of ISO 3166-1 alpha-2 in capital letters, such as DE";
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
}
