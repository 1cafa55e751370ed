//! A communication written as JSON, as it goes on the queue and into the payload hash.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::{
    Attachment, CommunicationRequest, Media, Priority, Recipient, Strategy, TemplateParams,
    TemplateValues,
};
use crate::{address::EmailAddress, channel::Channel};

// By hand, because the API's JSON is flat and the type is nested.
impl Serialize for CommunicationRequest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            clinic_id: Option<&'a str>,
            #[serde(flatten)]
            references: &'a BTreeMap<String, String>,
        }
        // The shortest form, which most callers use.
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Params<'a> {
            OfBody(&'a [String]),
            OfParts(&'a TemplateParams),
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            category: Option<&'a String>,
            priority: Priority,
            strategy: Strategy,
            #[serde(skip_serializing_if = "Option::is_none")]
            title: Option<&'a String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            body: Option<&'a String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            html: Option<&'a String>,
            recipients: &'a [Recipient],
            channels: &'a [Channel],
            #[serde(skip_serializing_if = "Option::is_none")]
            template_id: Option<&'a String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            language: Option<&'a String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            template_params: Option<Params<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            template_components: Option<&'a [Value]>,
            #[serde(skip_serializing_if = "Option::is_none")]
            media: Option<&'a Media>,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            cc: &'a [EmailAddress],
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            bcc: &'a [EmailAddress],
            #[serde(skip_serializing_if = "Option::is_none")]
            reply_to: Option<&'a EmailAddress>,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            attachments: &'a [Attachment],
            #[serde(skip_serializing_if = "Option::is_none")]
            expires_at: Option<&'a Timestamp>,
            metadata: Metadata<'a>,
        }
        let template = self.content.template.as_ref();
        let (template_params, template_components) = match template.map(|template| &template.values)
        {
            None => (None, None),
            Some(TemplateValues::Components(components)) => (None, Some(components.as_slice())),
            Some(TemplateValues::Params(params)) => {
                let of_body = params.header.is_empty() && params.buttons.is_empty();
                let params = if of_body {
                    Params::OfBody(&params.body)
                } else {
                    Params::OfParts(params)
                };
                (Some(params), None)
            }
        };
        Wire {
            category: self.category.as_ref(),
            priority: self.priority,
            strategy: self.strategy,
            title: self.content.title.as_ref(),
            body: self.content.body.as_ref(),
            html: self.content.html.as_ref(),
            recipients: &self.recipients,
            channels: &self.channels,
            template_id: template.map(|template| &template.id),
            language: template.and_then(|template| template.language.as_ref()),
            template_params,
            template_components,
            media: self.content.media.as_ref(),
            cc: &self.content.cc,
            bcc: &self.content.bcc,
            reply_to: self.reply_to.as_ref(),
            attachments: &self.content.attachments,
            expires_at: self.expires_at.as_ref(),
            metadata: Metadata {
                clinic_id: self.requested.as_json(),
                references: &self.references,
            },
        }
        .serialize(serializer)
    }
}
