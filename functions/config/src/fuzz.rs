//! Fuzz targets of patches and conditions: see [`comms_testkit::fuzz`].

comms_testkit::fuzz_targets! {
    merge_patches = crate::merge_patch::fuzz::patches, 100_000 + 600 * length;
    entity_tags = crate::preconditions::fuzz::tags, 10_000 + 100 * length;
}
