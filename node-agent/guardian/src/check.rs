//! `redir-agent check`: says what is wrong with the configuration or the machine, and changes nothing.

mod ask;

use std::{ffi::OsString, path::Path};

use redir_config::{
    NetnsSource, NodeConfig, PodConfig, TlsFiles,
    certificates::{CertificateValidity, UtcTime},
};
use redir_identity::Identity;

use super::{
    containers::Containers,
    devices::NetnsSurvey,
    kernel::KernelFeatures,
    netns::{HostNamespaces, NetnsId, PodNetns},
    preflight::{HostCapabilities, RuntimeEnvironment},
    reload::ConfigFile,
    tls_files,
};
use crate::output::line;

/// Prints what it finds. True when `run` would start here, and can use every file that the configuration names.
/// `controller_arguments` start a controller, where the configuration names containers.
pub fn check(config_file: &Path, controller_arguments: Vec<OsString>) -> anyhow::Result<bool> {
    let config_file = ConfigFile::read(config_file)?;
    let config = config_file.config();
    let (file, pods, developers) = (config_file.path().display(), config.pods.len(), config.developers.len());
    line(format_args!("{file}: good ({pods} pods, {developers} developers)"))?;
    let machine = HostCapabilities::look(RuntimeEnvironment::Host)?;
    for fact in machine.describe() {
        line(format_args!("{fact}"))?;
    }
    let mut good = true;
    let tried = machine
        .verdict()
        .and_then(|()| KernelFeatures::try_out(config.agent.attach.into()).map_err(|error| error.to_string()));
    for fact in tried.iter().flat_map(KernelFeatures::describe) {
        line(format_args!("{fact}"))?;
    }
    match redir_sandbox::try_out() {
        Ok(()) => line(format_args!("worker: has no file of this machine"))?,
        Err(sentence) => line(format_args!("warning: {sentence}"))?,
    }
    for problem in [tried.err(), key(config)?].into_iter().flatten() {
        line(format_args!("problem: {problem}"))?;
        good = false;
    }
    for (pod, files) in config.pods.iter().flat_map(|pod| pod.tls.iter().map(move |files| (pod, files))) {
        match certificate(pod, files) {
            Ok(dates) => line(format_args!("{dates}"))?,
            Err(problem) => {
                line(format_args!("problem: pod {} port {}: {problem}", pod.name, files.port))?;
                good = false;
            }
        }
    }
    let home = HostNamespaces::new()?;
    let mut containers = ask::containers(&config_file, controller_arguments)?;
    let opened: Vec<_> = config.pods.iter().map(|pod| (pod, open(&home, &mut containers, pod))).collect();
    for (pod, netns) in &opened {
        line(format_args!("{}", describe(&home, pod, netns)))?;
    }
    twins(&opened)?;
    unauthorised(config)?;
    Ok(good)
}

/// What is wrong with the agent's key.
fn key(config: &NodeConfig) -> anyhow::Result<Option<String>> {
    let Some(file) = config.agent.key.as_deref() else { return Ok(None) };
    match Identity::load(file) {
        Ok(identity) => line(format_args!("key {}: {}", file.display(), identity.pin())).map(|()| None),
        Err(error) => Ok(Some(error.to_string())),
    }
}

/// An expired certificate is the app's affair: its clients judge it. It is told because somebody may have forgotten it.
fn certificate(pod: &PodConfig, files: &TlsFiles) -> Result<String, String> {
    let (_, certified) = tls_files::read(files)?;
    let validity = certified.cert.first().and_then(|leaf| CertificateValidity::of(leaf));
    let (cert, now) = (files.cert.display(), UtcTime::now());
    let dates = match validity {
        Some(CertificateValidity { until, .. }) if until < now => {
            format!("warning: expired on {until}; clients will not take it from the app either")
        }
        Some(CertificateValidity { from, .. }) if from > now => format!("warning: not valid before {from}"),
        Some(CertificateValidity { until, .. }) => format!("valid until {until}"),
        None => "without readable dates".to_owned(),
    };
    Ok(format!("pod {} port {}: certificate {cert}: {dates}", pod.name, files.port))
}

fn open(home: &HostNamespaces, containers: &mut Containers, pod: &PodConfig) -> Result<PodNetns, String> {
    match &pod.netns {
        NetnsSource::Path(path) => home.open(path),
        NetnsSource::Container(container) => containers.open(home, &pod.name, container),
    }
}

/// A pod that is not there yet is no problem: it is looked for when it is intercepted.
fn describe(home: &HostNamespaces, pod: &PodConfig, netns: &Result<PodNetns, String>) -> String {
    let survey = netns.as_ref().map_err(Clone::clone).and_then(|netns| {
        let inside = netns.within(home, NetnsSurvey::of_intercepted);
        inside.map_err(|error| format!("cannot enter the network of {}: {error}; run this as root", pod.netns))?
    });
    match survey {
        Ok(survey) => {
            let devices: Vec<_> = survey.devices.iter().map(|device| &*device.name).collect();
            let addresses: Vec<_> = survey.pod_addresses.iter().map(ToString::to_string).collect();
            format!("pod {}: {} on {}", pod.name, addresses.join(" "), devices.join(" "))
        }
        Err(sentence) => format!("pod {}: not now: {sentence}", pod.name),
    }
}

/// Two names for one namespace: only one of them can be intercepted at a time.
fn twins(pods: &[(&PodConfig, Result<PodNetns, String>)]) -> anyhow::Result<()> {
    let id = |netns: &Result<PodNetns, String>| -> Option<NetnsId> { netns.as_ref().ok().map(PodNetns::id) };
    for (index, (pod, netns)) in pods.iter().enumerate() {
        let Some(own) = id(netns) else { continue };
        let twin = pods[..index].iter().find(|(_, other)| id(other) == Some(own));
        if let Some((twin, _)) = twin {
            line(format_args!(
                "warning: pods {} and {} have the same network namespace: only one of them can be intercepted at a time; \
                 leave one of the two out",
                twin.name, pod.name
            ))?;
        }
    }
    Ok(())
}

fn unauthorised(config: &NodeConfig) -> anyhow::Result<()> {
    for developer in &config.developers {
        if !config.pods.iter().any(|pod| developer.may(pod)) {
            line(format_args!("developer {}: no pod has these labels now", developer.name))?;
        }
    }
    Ok(())
}
