//! Where the functions' own log lines go: told in short, as they are, or into files beside.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use comms_functions::Function;

use crate::AnyError;
use crate::console::{self, LogLine, read_line, say, warn};

/// `--logs` of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Logs {
    /// Every line as it is, on standard error, in place of the short ones.
    Json,
    /// Every line as it is in a file of its function in this directory, beside the short ones.
    Directory(PathBuf),
}

impl std::str::FromStr for Logs {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "json" => Self::Json,
            directory => Self::Directory(directory.into()),
        })
    }
}

/// Takes the functions' lines.
#[derive(Debug, Default)]
pub(crate) struct FunctionLogs {
    is_raw: bool,
    with_metrics: bool,
    files: HashMap<&'static str, Mutex<File>>,
}

impl FunctionLogs {
    /// Lines go as `logs` says, without metrics where the functions' `LOG_LEVEL` is `warn` or `error`.
    pub(crate) fn new(logs: Option<&Logs>, log_level: Option<String>) -> Result<Self, AnyError> {
        let files = match logs {
            Some(Logs::Directory(directory)) => open(directory)?,
            Some(Logs::Json) | None => HashMap::new(),
        };
        let is_quiet = |level: String| ["warn", "error"].contains(&level.to_lowercase().as_str());
        Ok(Self {
            is_raw: logs == Some(&Logs::Json),
            with_metrics: !log_level.is_some_and(is_quiet),
            files,
        })
    }

    /// Takes one line of a function's output.
    pub(crate) fn take(&self, function: &'static Function, line: &[u8]) {
        let read = read_line(function, line);
        let is_wanted = self.with_metrics || read != LogLine::Metrics;
        if let Some(file) = self.files.get(function.name).filter(|_| is_wanted) {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = file.write_all(&[line, b"\n"].concat()) {
                warn(format_args!(
                    "[{function}] a line is not in its file: {error}"
                ));
            }
        }
        let text = String::from_utf8_lossy(line);
        match read {
            LogLine::Metrics | LogLine::Detail | LogLine::Event(_) if self.is_raw && is_wanted => {
                warn(text);
            }
            LogLine::Event(event) if !self.is_raw => say(event),
            LogLine::Metrics | LogLine::Detail | LogLine::Event(_) => {}
            // The last words of a process are always told.
            LogLine::Text => warn(format_args!("[{function}] {text}")),
        }
    }
}

fn open(directory: &Path) -> Result<HashMap<&'static str, Mutex<File>>, AnyError> {
    let cannot = |error| format!("--logs {}: {error}", directory.display());
    std::fs::create_dir_all(directory).map_err(cannot)?;
    let mut files = HashMap::new();
    for function in comms_functions::ALL {
        let path = directory.join(format!("{function}.log"));
        let file = File::options().create(true).append(true).open(path);
        files.insert(function.name, Mutex::new(file.map_err(cannot)?));
    }
    console::say(format_args!(
        "           logs   {}/*.log, as the functions write them",
        directory.display()
    ));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_every_line_of_its_function_and_metrics_unless_they_are_silenced() {
        let worker = comms_functions::named("worker").unwrap();
        let lines: [&[u8]; 3] = [
            br#"{"level":"INFO","message":"m"}"#,
            br#"{"_aws":{}}"#,
            b"last words",
        ];
        for (level, kept) in [("info", 3), ("WARN", 2)] {
            let home = tempfile::tempdir().unwrap();
            let logs = Logs::Directory(home.path().join("logs"));
            let taking = FunctionLogs::new(Some(&logs), Some(level.to_owned())).unwrap();
            for line in lines {
                taking.take(worker, line);
            }
            let file = std::fs::read_to_string(home.path().join("logs/worker.log")).unwrap();
            assert_eq!(file.lines().count(), kept, "{level}");
        }
    }
}
