//! Importing the settings of many clinics through the HTTP API, which validates, authorizes and records every save.
//!
//! The file is read twice: first to check all of it, so that all errors are known before anything is sent, then to send the
//! valid items. A clinic that has settings keeps them unless `replace` is set, so an interrupted import can be started again.

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use comms_core::{Problems, Tenant};
use comms_settings::CommunicationSettings;
use serde::Serialize;
use serde_json::json;
use thiserror::Error;

use crate::{
    api::{Api, ApiError, Precondition, SAVED_MEANWHILE, SettingsReply},
    clinics_file::{ClinicItem, ClinicsFile, RefusedItem},
    pace::Pace,
};

/// The JSON pointer of the settings in a body, as in the API's answers.
const SETTINGS_POINTER: &str = "/settings/communicationSettings";

/// The plan of an import.
#[derive(Debug)]
pub struct Plan {
    /// The file.
    pub file: PathBuf,
    /// The API; without one, the file is only checked.
    pub api: Option<Api>,
    /// Whether clinics that have settings get those of the file.
    pub replace: bool,
    /// Clinics a second, at most.
    pub rate: u32,
}

/// Why an import ended before its end.
#[derive(Debug, Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error("{path}: {kind}", path = .0.display(), kind = .1.kind())]
    File(PathBuf, std::io::Error),
    /// The API cannot be used any more.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// The progress of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// So much of the file is checked.
    Checked {
        /// Bytes that are behind us.
        bytes: u64,
        /// Bytes of the file.
        of: u64,
        /// Clinics among them.
        clinics: u64,
    },
    /// So much of the file is sent.
    Sent {
        /// Bytes that are behind us.
        bytes: u64,
        /// Bytes of the file.
        of: u64,
        /// Clinics among them.
        clinics: u64,
    },
}

/// What became of an import.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Clinics in the file that are as they should be.
    pub valid: u64,
    /// Clinics that had no settings and have them now.
    pub imported: Vec<String>,
    /// Clinics that have the file's settings in place of others.
    pub replaced: Vec<String>,
    /// Clinics that had these very settings.
    pub unchanged: Vec<String>,
    /// Clinics that have settings already and keep them.
    pub already_there: Vec<String>,
    /// What was not taken, by this command or by the API.
    pub refused: Vec<RefusedItem>,
    /// Clinics that could not be saved for another reason.
    pub failed: Vec<FailedClinic>,
}

/// A clinic that could not be saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedClinic {
    /// The line on which it begins, from 1.
    pub line: u64,
    /// The clinic.
    pub clinic_id: String,
    /// Why.
    pub error: String,
}

impl Report {
    /// Whether everything in the file was taken, as far as the import got.
    pub fn is_complete(&self) -> bool {
        self.refused.is_empty() && self.failed.is_empty()
    }
}

/// Checks the file, and sends what is right in it. `report` is kept up to date meanwhile; `on_step` hears how far it is.
pub async fn run(
    plan: &Plan,
    report: &mut Report,
    on_step: &mut dyn FnMut(Step),
) -> Result<(), ImportError> {
    let mut clinics = Clinics::open(&plan.file)?;
    let of = clinics.length;
    while let Some(item) = clinics.next()? {
        match item {
            Ok(_) => report.valid += 1,
            Err(refused) => report.refused.push(refused),
        }
        on_step(Step::Checked {
            bytes: clinics.position(),
            of,
            clinics: report.valid,
        });
    }
    let Some(api) = &plan.api else {
        return Ok(());
    };
    let mut pace = Pace::per_second(plan.rate);
    let mut clinics = Clinics::open(&plan.file)?;
    let mut sent = 0;
    while let Some(item) = clinics.next()? {
        // What is refused is in the report already.
        if let Ok(item) = item {
            pace.wait().await;
            save(api, item, plan.replace, report).await?;
            sent += 1;
        }
        on_step(Step::Sent {
            bytes: clinics.position(),
            of,
            clinics: sent,
        });
    }
    Ok(())
}

async fn save(
    api: &Api,
    item: ClinicItem,
    replace: bool,
    report: &mut Report,
) -> Result<(), ApiError> {
    let ClinicItem {
        line,
        tenant,
        document,
    } = item;
    let clinic_id = tenant.to_string();
    let failed = |error: &str| FailedClinic {
        line,
        clinic_id: clinic_id.clone(),
        error: error.to_owned(),
    };
    let replaces = if replace {
        match api.get(&tenant).await? {
            SettingsReply::Done { etag: Some(etag) } => Precondition::Version(etag),
            SettingsReply::Absent => Precondition::Nothing,
            SettingsReply::Failed(error) => {
                report.failed.push(failed(&error));
                return Ok(());
            }
            SettingsReply::Done { etag: None }
            | SettingsReply::OtherVersion
            | SettingsReply::Refused(_) => {
                report.failed.push(failed(
                    "the API did not say at which version its settings are",
                ));
                return Ok(());
            }
        }
    } else {
        Precondition::Nothing
    };
    let body = json!({"settings": {"communicationSettings": document}}).to_string();
    match api.put(&tenant, &replaces, Bytes::from(body)).await? {
        SettingsReply::Done { etag } => match replaces {
            Precondition::Nothing => report.imported.push(clinic_id),
            Precondition::Version(before) if etag.as_ref() == Some(&before) => {
                report.unchanged.push(clinic_id);
            }
            Precondition::Version(_) => report.replaced.push(clinic_id),
        },
        SettingsReply::OtherVersion if replace => {
            report.failed.push(failed(SAVED_MEANWHILE));
        }
        SettingsReply::OtherVersion => report.already_there.push(clinic_id),
        SettingsReply::Refused(problems) => {
            report
                .refused
                .push(RefusedItem::new(line, Some(&tenant), &problems));
        }
        SettingsReply::Failed(error) => report.failed.push(failed(&error)),
        SettingsReply::Absent => return Err(ApiError::NoSuchRoute),
    }
    Ok(())
}

/// The clinics of a file, each checked.
struct Clinics {
    path: PathBuf,
    file: ClinicsFile<BufReader<File>>,
    length: u64,
    /// On which line each clinic stands.
    seen: HashMap<Tenant, u64>,
}

impl Clinics {
    fn open(path: &Path) -> Result<Self, ImportError> {
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (length, file) = opened.map_err(|error| ImportError::File(path.to_owned(), error))?;
        let lines = path
            .extension()
            .is_some_and(|extension| extension == "jsonl" || extension == "ndjson");
        Ok(Self {
            path: path.to_owned(),
            file: ClinicsFile::new(BufReader::new(file), lines),
            length,
            seen: HashMap::new(),
        })
    }

    fn position(&self) -> u64 {
        self.file.position()
    }

    fn next(&mut self) -> Result<Option<Result<ClinicItem, RefusedItem>>, ImportError> {
        let item = self
            .file
            .next_item()
            .map_err(|error| ImportError::File(self.path.clone(), error))?;
        Ok(item.map(|item| self.check(item?)))
    }

    fn check(&mut self, item: ClinicItem) -> Result<ClinicItem, RefusedItem> {
        let mut problems = Problems::default();
        if let Some(line) = self.seen.get(&item.tenant) {
            let detail = format!("this clinic stands on line {line} already");
            problems.add("", detail);
        } else {
            self.seen.insert(item.tenant.clone(), item.line);
            // As for a clinic that has no settings: a file that is to be imported has its secrets in it.
            let settings = CommunicationSettings::read(
                item.document.clone(),
                SETTINGS_POINTER,
                &item.tenant,
                None,
                &mut problems,
            );
            if let Err(found) = std::mem::take(&mut problems).or(settings) {
                problems = found;
            }
        }
        if problems.is_empty() {
            Ok(item)
        } else {
            Err(RefusedItem::new(item.line, Some(&item.tenant), &problems))
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (clinics, what) in [
            (&self.imported, "imported"),
            (&self.replaced, "replaced"),
            (&self.unchanged, "had these settings"),
            (
                &self.already_there,
                "have settings already (--replace replaces them)",
            ),
        ] {
            if !clinics.is_empty() {
                writeln!(f, "{:>8} {what}", clinics.len())?;
            }
        }
        write!(f, "{:>8} valid in the file", self.valid)?;
        if !self.refused.is_empty() {
            write!(f, "\n{:>8} refused:", self.refused.len())?;
        }
        for refused in &self.refused {
            write!(f, "\n         line {}", refused.line)?;
            if let Some(clinic) = &refused.clinic_id {
                write!(f, ", {clinic}")?;
            }
            for problem in &refused.problems {
                write!(f, "\n           {} {}", problem.pointer, problem.detail)?;
            }
        }
        if !self.failed.is_empty() {
            write!(f, "\n{:>8} failed:", self.failed.len())?;
        }
        for failed in &self.failed {
            let FailedClinic {
                line,
                clinic_id,
                error,
            } = failed;
            write!(f, "\n         line {line}, {clinic_id}: {error}")?;
        }
        Ok(())
    }
}
