//! What a caller may ask for, as authorization and the audit line name it.

/// What a caller asks the service to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send a communication.
    Send,
    /// View a communication.
    ViewCommunication,
    /// See settings, versions, health.
    ViewSettings,
    /// Change settings.
    ManageSettings,
    /// Change the platform's ceilings for a clinic.
    ManageCeilings,
    /// Delete settings.
    DeleteSettings,
    /// Delete settings with all their versions.
    PurgeSettings,
    /// Test settings.
    TestSettings,
    /// See statistics.
    ViewStatistics,
}

impl Action {
    /// Every action.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 9] = [
        Self::Send,
        Self::ViewCommunication,
        Self::ViewSettings,
        Self::ManageSettings,
        Self::ManageCeilings,
        Self::DeleteSettings,
        Self::TestSettings,
        Self::ViewStatistics,
        Self::PurgeSettings,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::ViewCommunication => "view_communication",
            Self::ViewSettings => "view_settings",
            Self::ManageSettings => "manage_settings",
            Self::ManageCeilings => "manage_ceilings",
            Self::DeleteSettings => "delete_settings",
            Self::PurgeSettings => "purge_settings",
            Self::TestSettings => "test_settings",
            Self::ViewStatistics => "view_statistics",
        }
    }
}
