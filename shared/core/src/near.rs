//! Names that somebody almost got right: `clinic_id` and `clincId` for `clinicId`.

use strsim::osa_distance;

/// Bytes beyond which a name is compared with nothing. The comparison takes the product of both lengths.
const MAX_COMPARED: usize = 64;
/// Characters of a name's beginning that stand for the whole name, as `phone` does for `phoneNumber`.
const MIN_BEGINNING: usize = 4;
/// Characters of a known name from which two slips may be in it.
const LONG_NAME: usize = 8;

/// Whether `given` differs from `known` by case, `_`, `-` and spaces only, or by one character more, one less, another
/// one, or two that are transposed.
pub fn is_near_miss(given: &str, known: &str) -> bool {
    given != known && distance(given, known).is_some_and(|distance| distance <= 1)
}

/// The one of `known` that was probably meant by `given`, which is none of them. Up to two slips are forgiven in a long name,
/// and a beginning that only one of them has stands for that one.
pub fn nearest<'k>(given: &str, known: &[&'k str]) -> Option<&'k str> {
    let closest = known
        .iter()
        .filter_map(|known| Some((distance(given, known)?, *known)))
        .filter(|(distance, known)| *distance <= if known.len() >= LONG_NAME { 2 } else { 1 })
        .min_by_key(|(distance, _)| *distance);
    if let Some((_, known)) = closest {
        return Some(known);
    }
    let given = plain(given);
    let mut begun = known
        .iter()
        .filter(|known| given.len() >= MIN_BEGINNING && plain(known).starts_with(&given));
    begun.next().copied().filter(|_| begun.next().is_none())
}

/// In how many places the names differ; `None` where they are not compared.
fn distance(given: &str, known: &str) -> Option<usize> {
    let is_short = given.len() <= MAX_COMPARED && known.len() <= MAX_COMPARED;
    is_short.then(|| osa_distance(&plain(given), &plain(known)))
}

/// A name without the differences of common spellings.
fn plain(name: &str) -> String {
    name.chars()
        .filter(|c| !matches!(c, '_' | '-') && !c.is_whitespace())
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_and_single_slips_are_near_misses() {
        for given in [
            "clinicID",
            "clinicid",
            "clinic_id",
            "ClinicId",
            "CLINIC-ID",
            "clinic id",
            "clinicId ",
            "clincId",
            "clinicIdd",
            "cilnicId",
            "clinikId",
            "cliniсId",
        ] {
            assert!(is_near_miss(given, "clinicId"), "{given}");
        }
        for given in [
            "clinicId",
            "clinic",
            "clinicName",
            "appointmentId",
            "id",
            "",
            "clinikIdd",
        ] {
            assert!(!is_near_miss(given, "clinicId"), "{given}");
        }
        assert!(!is_near_miss(&"c".repeat(1_000_000), "clinicId"));
    }

    #[test]
    fn nearest_is_the_one_name_that_was_meant() {
        let known = [
            "email",
            "name",
            "phoneNumber",
            "templateId",
            "templateParams",
        ];
        for (given, meant) in [
            ("phone_number", Some("phoneNumber")),
            ("phoneNumer", Some("phoneNumber")),
            ("fonenumber", Some("phoneNumber")),
            ("phone", Some("phoneNumber")),
            ("Mail", Some("email")),
            ("e-mail", Some("email")),
            ("template", Some("templateId")),
            ("fax", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(given, &known), meant, "{given}");
        }
    }
}
