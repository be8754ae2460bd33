//! What a client's certificate says. It was verified before; here it is only read.

use x509_cert::der::asn1::{Ia5StringRef, PrintableStringRef, TeletexStringRef, Utf8StringRef};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Any, Decode as _, Tag, Tagged as _};
use x509_cert::time::Time;

use crate::auth::CertLogin;

/// commonName, X.520.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The distinguished name as RFC 4514 writes it: `CN=orders,O=Example`.
    pub subject: String,
    /// The same of who issued it.
    pub issuer: String,
    /// `2026-01-01T00:00:00Z - 2027-01-01T00:00:00Z`.
    pub validity: String,
    /// The end of that time, in seconds since 1970.
    pub valid_until: u64,
    /// Several are joined with commas; empty: none.
    pub common_name: String,
}

impl Certificate {
    /// Reads DER; `None` if it is no certificate.
    pub fn parse(der: &[u8]) -> Option<Self> {
        let certificate = x509_cert::Certificate::from_der(der).ok()?.tbs_certificate;
        let attributes = certificate.subject.0.iter().flat_map(|names| names.0.iter());
        let names = attributes.filter(|attribute| attribute.oid == COMMON_NAME);
        let names: Vec<&str> = names.filter_map(|attribute| text(&attribute.value)).collect();
        Some(Self {
            subject: certificate.subject.to_string(),
            issuer: certificate.issuer.to_string(),
            validity: format!(
                "{} - {}",
                moment(certificate.validity.not_before),
                moment(certificate.validity.not_after)
            ),
            valid_until: certificate.validity.not_after.to_unix_duration().as_secs(),
            common_name: names.join(","),
        })
    }

    /// The user that it names for EXTERNAL; `None`: nobody.
    pub fn login(&self, from: CertLogin) -> Option<&str> {
        let name = match from {
            CertLogin::DistinguishedName => &self.subject,
            CertLogin::CommonName => &self.common_name,
        };
        Some(name.as_str()).filter(|name| !name.is_empty())
    }
}

fn text(value: &Any) -> Option<&str> {
    match value.tag() {
        Tag::Utf8String => Utf8StringRef::try_from(value).ok().map(|text| text.as_str()),
        Tag::PrintableString => PrintableStringRef::try_from(value).ok().map(|text| text.as_str()),
        Tag::Ia5String => Ia5StringRef::try_from(value).ok().map(|text| text.as_str()),
        Tag::TeletexString => TeletexStringRef::try_from(value).ok().map(|text| text.as_str()),
        _ => None,
    }
}

fn moment(time: Time) -> String {
    time.to_date_time().to_string()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    #[test]
    fn names_are_written_last_first_and_escaped() {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Burrow, Inc.");
        params.distinguished_name.push(DnType::OrganizationalUnitName, "a+b");
        params.distinguished_name.push(DnType::CommonName, "orders");
        params.not_before = rcgen::date_time_ymd(2026, 1, 2);
        params.not_after = rcgen::date_time_ymd(2027, 3, 4);
        let key = KeyPair::generate().expect("a key");
        let made = params.self_signed(&key).expect("a certificate");
        let read = Certificate::parse(made.der()).expect("a certificate");
        assert_eq!(read.subject, "CN=orders,OU=a\\+b,O=Burrow\\, Inc.");
        assert_eq!(read.issuer, read.subject);
        assert_eq!(read.validity, "2026-01-02T00:00:00Z - 2027-03-04T00:00:00Z");
        assert_eq!(read.valid_until, 1_804_118_400);
        assert_eq!(read.login(CertLogin::CommonName), Some("orders"));
        assert_eq!(read.login(CertLogin::DistinguishedName), Some(read.subject.as_str()));
    }

    #[test]
    fn a_certificate_without_a_name_names_nobody() {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate().expect("a key");
        let made = params.self_signed(&key).expect("a certificate");
        let read = Certificate::parse(made.der()).expect("a certificate");
        assert_eq!(read.login(CertLogin::CommonName), None);
        assert_eq!(read.login(CertLogin::DistinguishedName), None);
        assert_eq!(Certificate::parse(b"no certificate"), None);
    }
}
