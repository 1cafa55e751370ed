//! Fuzz targets of what the ledger has stored: see [`comms_testkit::fuzz`].

comms_testkit::fuzz_targets! {
    /// Items of the ledger.
    ledger_items = crate::ledger::fuzz::items, 50_000 + 300 * length;
}
