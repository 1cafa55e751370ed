//! A plan for a walk over the settings table.

use comms_core::Tenant;
use comms_settings::SettingsStore;

/// The items that a command works on, and how fast.
#[derive(Debug)]
pub struct TablePlan {
    /// The settings table, with the KMS key of new data keys.
    pub store: SettingsStore,
    /// The owners of the items; empty for all.
    pub tenants: Vec<Tenant>,
    /// Writes a second, at most.
    pub rate: u32,
    /// Whether to count only.
    pub is_dry_run: bool,
}
