//! `REQUIRE_CLINIC`.

use std::str::FromStr;

/// Whether every communication has to name a clinic that has providers of its own (`REQUIRE_CLINIC`). Without it, the
/// platform's account sends what names no clinic, and for clinics without settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RequireClinic {
    /// Yes. The platform's account is only for communications that name it, and for clinics whose own providers failed.
    Yes,
    /// No.
    #[default]
    No,
}

impl FromStr for RequireClinic {
    type Err = std::str::ParseBoolError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text.parse()? { Self::Yes } else { Self::No })
    }
}
