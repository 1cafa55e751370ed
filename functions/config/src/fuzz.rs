//! Fuzz targets of patches and conditions: see [`comms_testkit::fuzz`].

comms_testkit::fuzz_targets! {
    /// Merge patches (RFC 7396).
    merge_patches = crate::merge_patch::fuzz::patches, 100_000 + 600 * length;
    /// Entity tags in conditions (RFC 9110 section 13.1).
    entity_tags = crate::preconditions::fuzz::tags, 10_000 + 100 * length;
}
