//! Which request something belongs to, across the queue: X-Ray's trace header.

use std::fmt;

/// An X-Ray trace header of known form, with nothing in it but ids.
///
/// Source: AWS X-Ray Developer Guide, "Tracing header"
/// (<https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader>).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceHeader {
    root: String,
    parent: Option<String>,
    is_sampled: Option<bool>,
}

impl TraceHeader {
    /// Reads `Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1`. Parts that are not
    /// known here, such as Lambda's `Lineage`, are left out.
    pub fn parse(header: &str) -> Option<Self> {
        let part = |name: &str| {
            header
                .split(';')
                .filter_map(|part| part.trim().split_once('='))
                .find_map(|(known, value)| (known == name).then_some(value))
        };
        let root = part("Root")?;
        let (epoch, random) = root.strip_prefix("1-")?.split_once('-')?;
        if !is_hex(epoch, 8) || !is_hex(random, 24) {
            return None;
        }
        Some(Self {
            root: root.to_owned(),
            parent: part("Parent")
                .filter(|parent| is_hex(parent, 16))
                .map(str::to_owned),
            is_sampled: match part("Sampled") {
                Some("1") => Some(true),
                Some("0") => Some(false),
                Some(_) | None => None,
            },
        })
    }

    /// Reads `traceparent` (W3C Trace Context, section 3.2): X-Ray takes its ids, the trace's cut in two
    /// (AWS X-Ray Developer Guide, "Sending trace data", W3C trace ids).
    pub fn from_traceparent(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let [version, trace, parent, flags] = [(); 4].map(|()| parts.next().unwrap_or_default());
        let is_known = is_hex(version, 2) && version != "ff";
        // The form of later versions may go on after these four parts; that of this one may not.
        let is_whole = version != "00" || parts.next().is_none();
        let is_id = |id: &str, length| is_hex(id, length) && id.bytes().any(|byte| byte != b'0');
        if !is_known || !is_whole || !is_id(trace, 32) || !is_id(parent, 16) || !is_hex(flags, 2) {
            return None;
        }
        let (epoch, random) = trace.split_at_checked(8)?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(Self {
            root: format!("1-{epoch}-{random}"),
            parent: Some(parent.to_owned()),
            is_sampled: Some(flags & 1 == 1),
        })
    }

    /// The id of the trace, as X-Ray shows it.
    pub fn id(&self) -> &str {
        &self.root
    }
}

/// As it is sent on.
impl fmt::Display for TraceHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root={}", self.root)?;
        if let Some(parent) = &self.parent {
            write!(f, ";Parent={parent}")?;
        }
        match self.is_sampled {
            Some(true) => f.write_str(";Sampled=1"),
            Some(false) => f.write_str(";Sampled=0"),
            None => Ok(()),
        }
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "1-5759e988-bd862e3fe1be46a994272793";

    #[test]
    fn a_header_is_read_and_written_without_what_is_not_known() {
        let header = format!("Root={ROOT};Parent=53995c3f42cd8ad8;Sampled=1;Lineage=25:a87bd80c:0");
        let trace = TraceHeader::parse(&header).unwrap();
        assert_eq!(trace.id(), ROOT);
        let written = format!("Root={ROOT};Parent=53995c3f42cd8ad8;Sampled=1");
        assert_eq!(trace.to_string(), written);
        assert_eq!(TraceHeader::parse(&written), Some(trace));
        let alone = format!("Sampled=?;Root={ROOT}");
        let alone = TraceHeader::parse(&alone).unwrap();
        assert_eq!(alone.to_string(), format!("Root={ROOT}"));
    }

    #[test]
    fn w3c_ids_are_x_ray_ids() {
        let w3c = "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01";
        let trace = TraceHeader::from_traceparent(w3c).unwrap();
        assert_eq!(
            trace.to_string(),
            format!("Root={ROOT};Parent=53995c3f42cd8ad8;Sampled=1")
        );
    }

    #[test]
    fn what_is_no_trace_is_none() {
        for text in [
            "",
            "Root=",
            "Root=1-5759e988-bd862e3fe1be46a99427279",
            "Root=1-5759e988-planted poison of 24 byt",
            "Root=2-5759e988-bd862e3fe1be46a994272793",
            "1-5759e988-bd862e3fe1be46a994272793",
        ] {
            assert_eq!(TraceHeader::parse(text), None, "{text}");
        }
        for text in [
            "",
            "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8",
            "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01-more",
            "ff-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01",
            "00-00000000000000000000000000000000-53995c3f42cd8ad8-01",
            "00-5759e988bd862e3fe1be46a994272793-0000000000000000-01",
            "00-5759E988BD862E3FE1BE46A994272793-53995c3f42cd8ad8-01",
        ] {
            assert_eq!(TraceHeader::from_traceparent(text), None, "{text}");
        }
    }
}
