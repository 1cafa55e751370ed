//! What is loaded from the store.

use crate::{
    ceilings::Ceilings, document::CommunicationSettings, store_error::StoreError, version::Version,
};

/// Settings as they were loaded.
#[derive(Debug, Clone)]
pub struct StoredSettings {
    /// The version.
    pub version: Version,
    /// The settings, their secrets sealed in memory.
    pub settings: CommunicationSettings,
}

/// What is stored of a tenant, for somebody who is about to change it.
#[derive(Debug)]
pub enum Present {
    /// Nothing was ever saved.
    Nothing,
    /// The settings were deleted.
    Deleted(Deleted),
    /// The settings.
    Settings(Box<StoredSettings>),
    /// Settings that cannot be read any more. Another document can take their place, and an earlier
    /// version can be restored.
    Unreadable {
        /// Their version.
        number: u64,
        /// Why.
        error: StoreError,
    },
}

/// A deletion of settings.
#[derive(Debug, Clone)]
pub struct Deleted {
    /// The number of the version that deleted them.
    pub number: u64,
    /// The settings that the deletion kept: ceilings, or nothing.
    pub kept: Box<CommunicationSettings>,
}

impl Present {
    /// The present version of the settings, readable or not.
    pub const fn number(&self) -> Option<u64> {
        match self {
            Self::Nothing | Self::Deleted(_) => None,
            Self::Settings(stored) => Some(stored.version.number),
            Self::Unreadable { number, .. } => Some(*number),
        }
    }

    /// The last number that was given, to a deletion too.
    pub const fn last_number(&self) -> Option<u64> {
        self.basis().number
    }

    /// The settings, where they can be read.
    pub const fn settings(&self) -> Option<&CommunicationSettings> {
        match self {
            Self::Settings(stored) => Some(&stored.settings),
            Self::Nothing | Self::Deleted(_) | Self::Unreadable { .. } => None,
        }
    }

    /// The ceilings that a change of the settings keeps, unless the platform's administrators change them.
    pub fn ceilings(&self) -> Ceilings {
        match self {
            Self::Settings(stored) => stored.settings.ceilings,
            Self::Deleted(deleted) => deleted.kept.ceilings,
            Self::Nothing | Self::Unreadable { .. } => Ceilings::default(),
        }
    }

    /// What a change of them is made on.
    pub const fn basis(&self) -> Basis<'_> {
        let (number, settings) = match self {
            Self::Nothing => (None, None),
            Self::Deleted(deleted) => (Some(deleted.number), Some(&*deleted.kept)),
            Self::Unreadable { number, .. } => (Some(*number), None),
            Self::Settings(stored) => (Some(stored.version.number), Some(&stored.settings)),
        };
        Basis { number, settings }
    }
}

/// What a change is made on. It is saved only where this is still so.
#[derive(Debug, Clone, Copy)]
pub struct Basis<'s> {
    /// The last number that was given; `None` where none was.
    pub(crate) number: Option<u64>,
    /// What the changed fields are told from.
    pub(crate) settings: Option<&'s CommunicationSettings>,
}

impl<'s> From<Option<&'s StoredSettings>> for Basis<'s> {
    fn from(stored: Option<&'s StoredSettings>) -> Self {
        Self {
            number: stored.map(|stored| stored.version.number),
            settings: stored.map(|stored| &stored.settings),
        }
    }
}

/// What is stored under the number of a version.
#[derive(Debug)]
pub enum Past {
    /// Nothing, or nothing any more.
    Nothing,
    /// Who changed what. The content was removed, because newer versions filled the limits.
    ContentRemoved,
    /// That the settings were deleted.
    Deletion,
    /// Settings.
    Settings {
        /// What they were.
        settings: Box<StoredSettings>,
        /// Whether they are under a purge, which a restore of them undoes.
        is_purge_pending: bool,
    },
}
