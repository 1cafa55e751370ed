//! Country calling codes (ITU-T E.164), as far as a number can be read without the numbering plans.
//!
//! The plans are some megabytes of regular expressions, which the library that has them compiles when the first number
//! comes: a tenth of a second of CPU time, at the first message of a process. Most numbers come as E.164 has them, and
//! of those it has to be known only that the code exists, and that what is behind it does not begin with the prefix for
//! calls within the country (`+49 0171…`).

/// Codes of countries whose national prefix is `0`, or that have none: where the first digit behind the code is another,
/// nothing of the number is left out. In order. From the metadata of libphonenumber, to which a test holds them.
pub(crate) const PREFIX_IS_ZERO: &[u16] = &[
    20, 27, 30, 31, 32, 33, 34, 39, 40, 41, 43, 45, 46, 47, 48, 49, 51, 52, 53, 56, 57, 58, 60, 62,
    63, 64, 65, 66, 82, 84, 90, 91, 92, 93, 94, 95, 98, 211, 212, 213, 216, 218, 220, 221, 222,
    223, 224, 225, 226, 227, 228, 229, 230, 231, 232, 233, 234, 235, 236, 237, 238, 239, 240, 241,
    242, 243, 244, 245, 246, 247, 248, 249, 250, 251, 252, 253, 254, 255, 256, 257, 258, 260, 262,
    263, 264, 265, 266, 267, 268, 269, 290, 291, 297, 299, 350, 351, 353, 354, 355, 356, 357, 358,
    359, 371, 372, 373, 374, 376, 377, 380, 381, 382, 383, 385, 386, 387, 389, 420, 421, 500, 501,
    502, 503, 504, 505, 507, 508, 509, 590, 591, 592, 593, 594, 595, 596, 597, 598, 599, 670, 673,
    674, 675, 676, 677, 678, 679, 680, 681, 682, 683, 685, 686, 687, 688, 689, 690, 691, 800, 808,
    850, 852, 853, 855, 856, 870, 878, 880, 881, 882, 883, 886, 888, 960, 961, 962, 963, 964, 965,
    966, 967, 968, 970, 971, 972, 973, 974, 975, 976, 977, 979, 992, 994, 995, 996, 998,
];

/// The code of the North American Numbering Plan, whose numbers have ten digits, the first of them from 2 to 9.
const NANP: u16 = 1;

/// Whether digits, as they stand behind the `+`, are a number of which nothing has to be left out. Where this says no, the
/// plans have to be asked.
pub(crate) fn is_complete(digits: &str) -> bool {
    // Codes have up to three digits, and none is the beginning of another.
    digits.bytes().all(|byte| byte.is_ascii_digit())
        && (1..=3).any(|length| {
            let Some((code, national)) = digits.split_at_checked(length) else {
                return false;
            };
            let first = national.bytes().next().unwrap_or(b'0');
            match code.parse() {
                Ok(NANP) if length == 1 => national.len() == 10 && first >= b'2',
                Ok(code) => first != b'0' && PREFIX_IS_ZERO.binary_search(&code).is_ok(),
                Err(_) => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use phonenumber::metadata::DATABASE;

    use super::*;

    /// Whether a code's numbers lose nothing at their beginning but a `0`, in all its countries.
    fn loses_only_a_zero(code: u16) -> bool {
        let plans = DATABASE.by_code(&code).unwrap_or_default();
        !plans.is_empty()
            && plans.iter().all(|plan| {
                let prefix = plan.national_prefix().is_none_or(|prefix| prefix == "0");
                let parsing = plan.national_prefix_for_parsing();
                let parsing = parsing.map(ToString::to_string).unwrap_or_default();
                let parsing: String = parsing.split_whitespace().collect();
                let rest = parsing.strip_prefix('0');
                let is_only_behind_a_zero = rest.is_some_and(|rest| {
                    let mut depth = 0;
                    let has_alternatives = rest.chars().any(|c| {
                        depth += i32::from(c == '(') - i32::from(c == ')');
                        c == '|' && depth == 0
                    });
                    !has_alternatives && !rest.starts_with(['?', '*', '{'])
                });
                prefix && (parsing.is_empty() || is_only_behind_a_zero)
            })
    }

    #[test]
    fn the_codes_are_those_of_the_numbering_plans() {
        let codes: Vec<u16> = (1..1_000).filter(|code| loses_only_a_zero(*code)).collect();
        assert_eq!(PREFIX_IS_ZERO, codes);
        let is_beginning_of_another = |code: &u16| {
            codes
                .iter()
                .any(|other| other != code && other.to_string().starts_with(&code.to_string()))
        };
        assert!(!codes.iter().any(is_beginning_of_another));
    }

    #[test]
    fn a_number_that_is_complete_is_the_same_by_the_numbering_plans() {
        let mut bits: u64 = 0x2545_f491_4f6c_dd1d;
        let mut digit = || {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'0' + u8::try_from((bits >> 33) % 10).unwrap())
        };
        let mut complete = 0;
        for code in PREFIX_IS_ZERO.iter().chain(&[NANP]) {
            for length in 6..=11 {
                let national: String = (0..length).map(|_| digit()).collect();
                let digits = format!("{code}{national}");
                if !is_complete(&digits) || digits.len() > 15 {
                    continue;
                }
                complete += 1;
                let number = phonenumber::parse(None, format!("+{digits}")).unwrap();
                let by_plan = number.format().mode(phonenumber::Mode::E164).to_string();
                assert_eq!(by_plan, format!("+{digits}"));
            }
        }
        assert!(complete > 500, "{complete}");
    }
}
