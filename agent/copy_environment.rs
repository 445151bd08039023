//! Pure. One environment of two: restic reads from one repository and writes to another in one process, which has each variable once.
//! Does not make either environment: `restic_environment` does.

use restic_manager::protocol::command::Secret;

use crate::repository_url::Backend;
use crate::restic_args::Refusal;

/// What is said of both, and by which names restic knows it of the one that is read.
const OF_SOURCE: [(&str, &str); 2] =
    [("RESTIC_REPOSITORY", "RESTIC_FROM_REPOSITORY"), ("RESTIC_PASSWORD", "RESTIC_FROM_PASSWORD")];

/// The environment of a copy. Refused where a variable would have to have two values at once, and where the two are of one kind and
/// a variable of one of them would be used with the other, too.
pub(crate) fn copy_environment(
    from: Vec<(String, Secret)>,
    to: Vec<(String, Secret)>,
    (from_backend, to_backend): (Backend, Backend),
) -> Result<Vec<(String, Secret)>, Refusal> {
    let is_of_source = |name: &str| OF_SOURCE.iter().any(|(of_target, _)| *of_target == name);
    let names = from.iter().chain(&to).map(|(name, _)| name).filter(|name| !is_of_source(name));
    for name in names {
        let value =
            |of: &[(String, Secret)]| of.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let (of_from, of_to) = (value(&from), value(&to));
        let clash = of_from != of_to && (from_backend == to_backend || (of_from.is_some() && of_to.is_some()));
        if clash {
            return Err(Refusal::new(format!(
                "copy: {name} is not the same for both repositories, and one run of restic has only one environment: use another kind of storage for one of them, or the same credentials and env"
            )));
        }
    }
    let mut both = to;
    for (name, value) in from {
        match OF_SOURCE.iter().find(|(of_target, _)| *of_target == name) {
            Some((_, of_source)) => both.push(((*of_source).to_owned(), value)),
            None if both.iter().any(|(known, _)| *known == name) => {}
            None => both.push((name, value)),
        }
    }
    Ok(both)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Vec<(String, Secret)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), Secret::new((*value).to_owned()))).collect()
    }

    #[test]
    fn the_source_gets_names_of_its_own_and_the_rest_is_there_once() {
        let from = variables(&[("RESTIC_REPOSITORY", "/a"), ("RESTIC_PASSWORD", "pa"), ("PATH", "/bin")]);
        let to =
            variables(&[("RESTIC_REPOSITORY", "b"), ("RESTIC_PASSWORD", "pb"), ("PATH", "/bin"), ("AWS_REGION", "eu")]);
        let mut both: Vec<(String, String)> = copy_environment(from, to, (Backend::Local, Backend::S3))
            .expect("an environment")
            .into_iter()
            .map(|(name, value)| (name, value.reveal().to_owned()))
            .collect();
        both.sort();
        let expected = [
            ("AWS_REGION", "eu"),
            ("PATH", "/bin"),
            ("RESTIC_FROM_PASSWORD", "pa"),
            ("RESTIC_FROM_REPOSITORY", "/a"),
            ("RESTIC_PASSWORD", "pb"),
            ("RESTIC_REPOSITORY", "b"),
        ];
        assert_eq!(both, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn two_values_of_one_name_are_refused_by_name_and_without_the_values() {
        let key = |value: &str| variables(&[("RESTIC_REPOSITORY", "x"), ("AWS_SECRET_ACCESS_KEY", value)]);
        let none = variables(&[("RESTIC_REPOSITORY", "y")]);
        let s3 = (Backend::S3, Backend::S3);
        for (from, to) in
            [(key("hunter2"), key("hunter3")), (key("hunter2"), none.clone()), (none.clone(), key("hunter2"))]
        {
            let refusal = copy_environment(from, to, s3).expect_err("a clash").to_string();
            assert!(refusal.contains("AWS_SECRET_ACCESS_KEY") && !refusal.contains("hunter"), "{refusal}");
        }
        assert!(copy_environment(key("hunter2"), key("hunter2"), s3).is_ok());
        assert!(copy_environment(key("hunter2"), none, (Backend::S3, Backend::Local)).is_ok());
    }
}
