//! The body of a test request.

use comms_adapters::{EntrySpec, registry};
use comms_core::{
    Channel, EmailAddress, EntryId, Mailbox, PhoneNumber, Problems, ProviderKind,
    json::{Object, read},
    request::{Target, Template, read_template},
};
use comms_runtime::HttpProblem;
use serde_json::Value;

/// The body of a test request.
pub(crate) struct TestRequest {
    /// The recipient of a test message; none if only the stages are verified.
    pub(crate) to: Option<Target>,
    /// The template of a `WhatsApp` test message.
    pub(crate) template: Option<Template>,
    /// Which entries are tested.
    pub(crate) only: EntryFilter,
    /// The settings that are tested in place of the saved ones.
    pub(crate) candidate: Option<Value>,
}

/// Which entries are tested: those that match every field that is set.
pub(crate) struct EntryFilter {
    provider: Option<ProviderKind>,
    entry: Option<EntryId>,
}

impl EntryFilter {
    pub(crate) fn matches(&self, spec: &EntrySpec) -> bool {
        self.provider.is_none_or(|only| only == spec.config.kind())
            && self.entry.as_ref().is_none_or(|only| *only == spec.id)
    }
}

/// Reads the body.
///
/// # Errors
/// 422 with every field that is wrong.
pub(crate) fn read_request(body: Value, channel: Channel) -> Result<TestRequest, HttpProblem> {
    let mut problems = Problems::default();
    let test = Object::new(body, "", &mut problems).map(|mut object| {
        let (field, to, template) = match channel {
            Channel::Email => {
                let to = object.optional("testEmail", read::parsed(EmailAddress::parse_new));
                let to = to.map(|address| {
                    Target::Email(Mailbox {
                        address,
                        name: None,
                    })
                });
                ("testEmail", to, None)
            }
            Channel::Whatsapp => {
                let to = object.optional("testPhone", read::parsed(PhoneNumber::parse));
                let template = read_template(&mut object);
                ("testPhone", to.map(Target::Whatsapp), template)
            }
        };
        let verify_only = object.optional("verifyOnly", read::flag).unwrap_or(false);
        if to.is_none() && !verify_only {
            object.missing(field, "is required, unless verifyOnly is true");
        }
        let provider = object.optional("provider", |value| {
            registry::find(&read::string(value)?)
                .filter(|provider| provider.channels.contains(&channel))
                .map(|provider| provider.kind)
                .ok_or_else(|| format!("must be the name of a provider of the {channel} channel"))
        });
        let entry = object.optional("entry", read::parsed(EntryId::parse));
        let candidate = object.object("settings", |mut settings| {
            let candidate = settings.take("communicationSettings");
            if candidate.is_none() {
                settings.problem("communicationSettings", "is required");
            }
            settings.finish();
            candidate
        });
        object.finish();
        TestRequest {
            to: to.filter(|_| !verify_only),
            template,
            only: EntryFilter { provider, entry },
            candidate,
        }
    });
    problems
        .or(test)
        .map_err(|problems| HttpProblem::invalid(&problems))
}
