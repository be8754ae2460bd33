//! What a client's certificate says. It was verified before; here it is only read.

use std::net::IpAddr;

use x509_cert::der::asn1::{Ia5StringRef, PrintableStringRef, TeletexStringRef, Utf8StringRef};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Any, Decode as _, Tag, Tagged as _};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::time::Time;

use crate::auth::{CertLogin, CertName, SanType};

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
    /// The subject's alternative names of known types, in their order.
    pub alternative_names: Vec<(SanType, String)>,
}

impl Certificate {
    /// Reads DER; `None` if it is no certificate.
    pub fn parse(der: &[u8]) -> Option<Self> {
        let certificate = x509_cert::Certificate::from_der(der).ok()?.tbs_certificate;
        let attributes = certificate.subject.0.iter().flat_map(|names| names.0.iter());
        let names = attributes.filter(|attribute| attribute.oid == COMMON_NAME);
        let names: Vec<&str> = names.filter_map(|attribute| text(&attribute.value)).collect();
        // One that cannot be read names nobody.
        let alternative = certificate.get::<SubjectAltName>().ok().flatten();
        let alternative_names = alternative.map(|(_, names)| names.0.iter().filter_map(alternative_name).collect());
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
            alternative_names: alternative_names.unwrap_or_default(),
        })
    }

    /// The user that it names for EXTERNAL; `None`: nobody.
    pub fn login(&self, wanted: CertName) -> Option<&str> {
        let name = match wanted.from {
            CertLogin::DistinguishedName => &self.subject,
            CertLogin::CommonName => &self.common_name,
            CertLogin::SubjectAlternativeName => {
                let mut of_type = self.alternative_names.iter().filter(|(of, _)| *of == wanted.san_type);
                &of_type.nth(wanted.san_index)?.1
            }
        };
        Some(name.as_str()).filter(|name| !name.is_empty())
    }
}

fn alternative_name(name: &GeneralName) -> Option<(SanType, String)> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "every other type is nobody's login")]
    match name {
        GeneralName::DnsName(name) => Some((SanType::Dns, name.as_str().to_owned())),
        GeneralName::Rfc822Name(name) => Some((SanType::Email, name.as_str().to_owned())),
        GeneralName::UniformResourceIdentifier(name) => Some((SanType::Uri, name.as_str().to_owned())),
        GeneralName::IpAddress(bytes) => {
            let bytes = bytes.as_bytes();
            let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
            let address = four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()?;
            Some((SanType::Ip, address.to_string()))
        }
        _ => None,
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
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::{CertLogin, CertName, Certificate};

    fn from(from: CertLogin) -> CertName {
        CertName {
            from,
            ..CertName::default()
        }
    }

    #[test]
    fn alternative_names_are_found_by_type_and_place() {
        let mut params = CertificateParams::default();
        let uri = "urn:orders".try_into().expect("it is ASCII");
        let mail = "orders@example.com".try_into().expect("it is ASCII");
        params.subject_alt_names = vec![
            SanType::URI(uri),
            SanType::DnsName("one.example".try_into().expect("it is ASCII")),
            SanType::IpAddress([10, 0, 0, 7].into()),
            SanType::IpAddress("fd00::1".parse().expect("an address")),
            SanType::Rfc822Name(mail),
            SanType::DnsName("two.example".try_into().expect("it is ASCII")),
        ];
        let key = KeyPair::generate().expect("a key");
        let made = params.self_signed(&key).expect("a certificate");
        let read = Certificate::parse(made.der()).expect("a certificate");
        let check = |san_type, san_index, expected| {
            let wanted = CertName {
                from: CertLogin::SubjectAlternativeName,
                san_type,
                san_index,
            };
            assert_eq!(read.login(wanted), expected, "{wanted:?}");
        };
        use crate::auth::SanType as Type;
        check(Type::Dns, 0, Some("one.example"));
        check(Type::Dns, 1, Some("two.example"));
        check(Type::Dns, 2, None);
        check(Type::Uri, 0, Some("urn:orders"));
        check(Type::Email, 0, Some("orders@example.com"));
        check(Type::Ip, 0, Some("10.0.0.7"));
        check(Type::Ip, 1, Some("fd00::1"));
    }

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
        assert_eq!(read.login(from(CertLogin::CommonName)), Some("orders"));
        assert_eq!(
            read.login(from(CertLogin::DistinguishedName)),
            Some(read.subject.as_str())
        );
    }

    #[test]
    fn a_certificate_without_a_name_names_nobody() {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate().expect("a key");
        let made = params.self_signed(&key).expect("a certificate");
        let read = Certificate::parse(made.der()).expect("a certificate");
        assert_eq!(read.login(from(CertLogin::CommonName)), None);
        assert_eq!(read.login(from(CertLogin::DistinguishedName)), None);
        assert_eq!(Certificate::parse(b"no certificate"), None);
    }
}
