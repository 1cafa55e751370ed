//! Which phone number at Meta.

use std::{fmt, num::NonZeroU32};

use comms_core::{
    BaseUrl, Channel, Host, ProviderKind, Secret,
    account::GraphId,
    json::{Object, read},
};
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::{
    config::{
        ProviderConfig, ReadConfig,
        read::{MAX_SECRET, Reading, Rules, StoredSecret, drop_unset, read_secret, url_json},
    },
    rate::{AccountLimit, Rate, RateLimits},
    verify::{VerifyPlan, VerifyStage},
};

/// The oldest version of Meta's Graph that has not ended (Graph API changelog: v20.0 ended in
/// September 2026).
const OLDEST_GRAPH_VERSION: u16 = 21;
/// Messages that one phone number may send in a second, unless Meta has raised that (Cloud API, "Throughput").
const MESSAGES_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(79);
/// Messages from one phone number to one recipient: 45 at once, for which one in six seconds is borrowed
/// (Cloud API, "Pair rate limits").
const PAIR_RATE: Rate = Rate {
    burst: 45,
    interval: SignedDuration::from_secs(6),
};

/// One phone number of one `WhatsApp` Business account.
#[derive(Clone)]
pub struct MetaConfig {
    /// A system user's access token with `whatsapp_business_messaging`.
    pub access_token: Secret,
    /// The phone number's id.
    pub phone_number_id: GraphId,
    /// The account that it belongs to.
    pub business_account_id: Option<GraphId>,
    /// Where the Graph is, version included, if not at [`MetaConfig::GRAPH_URL`].
    pub api_url: Option<BaseUrl>,
}

impl MetaConfig {
    /// Meta's Graph at the version that this adapter is written for. It is served until 2027-10-08
    /// (Graph API, changelog).
    pub const GRAPH_URL: &str = "https://graph.facebook.com/v23.0";
}

impl fmt::Debug for MetaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetaConfig(…)")
    }
}

impl ReadConfig for MetaConfig {
    const KIND: ProviderKind = ProviderKind::new("meta_business");
    const CHANNELS: &[Channel] = &[Channel::Whatsapp];
    const JSON_BYTES: usize = MAX_SECRET + BaseUrl::MAX + 1_024;

    fn read(object: &mut Object<'_>, reading: Reading<'_>, stored: Option<&Self>) -> Option<Self> {
        let phone_number_id = object.required("phoneNumberId", read::parsed(GraphId::parse));
        let business_account_id =
            object.optional("businessAccountId", read::parsed(GraphId::parse));
        let api_url = object.optional("apiUrl", read::parsed(BaseUrl::parse));
        if let (Some(url), Rules::Current) = (&api_url, reading.rules)
            && !is_current_graph(url)
        {
            object.problem("apiUrl", format!(
                "must end in a version of the Graph that has not ended, v{OLDEST_GRAPH_VERSION}.0 or later, such as https://graph.facebook.com/v23.0"
            ));
        }
        let name = token_field(object);
        let stored = stored.map(|stored| StoredSecret {
            secret: &stored.access_token,
            // Another version of the Graph is served by the same host.
            same_place: origin(stored.api_url.as_ref()) == origin(api_url.as_ref())
                && Some(&stored.phone_number_id) == phone_number_id.as_ref()
                && stored.business_account_id == business_account_id,
        });
        let access_token = read_secret(
            object,
            name,
            stored,
            "the host of apiUrl, phoneNumberId or businessAccountId",
        );
        Some(Self {
            access_token: access_token?,
            phone_number_id: phone_number_id?,
            business_account_id,
            api_url,
        })
    }
}

/// The name of the field that the token is read from. Platforms that moved over know it as `accessToken`.
fn token_field(object: &mut Object<'_>) -> &'static str {
    drop_unset(object, &["apiKey", "accessToken"]);
    if !object.is_missing("accessToken") && !object.is_missing("apiKey") {
        object.take("accessToken");
        object.problem(
            "accessToken",
            "is another name of apiKey, which stands beside it; send one of the two",
        );
    }
    if object.is_missing("apiKey") && !object.is_missing("accessToken") {
        "accessToken"
    } else {
        "apiKey"
    }
}

/// Scheme, host and port of a URL.
fn origin(url: Option<&BaseUrl>) -> Option<(bool, &Host, u16)> {
    url.map(|url| (url.is_https(), url.host(), url.port()))
}

/// Whether the URL's path is one version of the Graph that is still served.
fn is_current_graph(url: &BaseUrl) -> bool {
    let mut path = url.path_segments();
    let version = path
        .next()
        .and_then(|segment| segment.strip_prefix('v')?.strip_suffix(".0"))
        .filter(|number| !number.starts_with(['+', '0']))
        .and_then(|number| number.parse::<u16>().ok());
    version.is_some_and(|version| version >= OLDEST_GRAPH_VERSION) && path.next().is_none()
}

impl ProviderConfig for MetaConfig {
    fn kind(&self) -> ProviderKind {
        Self::KIND
    }

    fn fields(&self, secret: &dyn Fn(&Secret) -> Value) -> Value {
        json!({
            "apiKey": secret(&self.access_token),
            "phoneNumberId": self.phone_number_id,
            "businessAccountId": self.business_account_id,
            "apiUrl": url_json(self.api_url.as_ref()),
        })
    }

    fn account_key(&self) -> String {
        format!("{}\n{}", Self::KIND, self.phone_number_id)
    }

    fn rate_limits(&self) -> RateLimits {
        RateLimits {
            per_second: AccountLimit::Fixed(MESSAGES_PER_SECOND),
            per_recipient: Some(PAIR_RATE),
        }
    }

    fn api_url(&self) -> Option<&BaseUrl> {
        self.api_url.as_ref()
    }

    fn verify_plan(&self) -> VerifyPlan {
        VerifyPlan::of_api(self.api_url(), &[VerifyStage::Sender])
    }
}
