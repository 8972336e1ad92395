//! `redir list`, `status`, `leave` and `describe` in a cluster: all they need is in the API server.
//!
//! Owns: what is asked, and what counts as having left. Must not speak to agents. Called by: the commands of these names.

use futures_util::future::join;
use k8s_openapi::api::core::v1::Event as KubeEvent;
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ListParams, ObjectList};
use redir_api::{Intercept, PLURAL, TargetKind, names};

use super::ask;
use super::runtime::with_runtime;
use crate::args;
use crate::cluster::Cluster;
use crate::cluster::api_call::{ApiCall, unless};
use crate::cluster::mode::refuse_static;
use crate::cluster::rows;
use crate::cluster::viewer::Viewer;
use crate::cluster::{ports, target};
use crate::error::{CliError, Outcome};
use crate::events::Event;
use crate::model::rows::{InterceptRow, WorkloadRow};
use crate::model::values::{LeaveTarget, Target, short};
use crate::screen::{Screen, print};
use crate::timestamps;
use crate::wording::{cluster as say, events as show, session};

/// What `list` shows: what a developer names. Replica sets and pods belong to one of these, jobs end.
const LISTED: [TargetKind; 5] =
    [TargetKind::Deployment, TargetKind::StatefulSet, TargetKind::DaemonSet, TargetKind::Rollout, TargetKind::Service];

/// `redir list`: the intercepts, and what can be intercepted.
pub(super) fn list(args: &args::QueryArgs) -> Outcome {
    with_runtime(args.agents.output, async |screen| {
        let cluster = Cluster::connect(&args.cluster).await?;
        let place = (!args.all_namespaces).then_some(cluster.namespace.as_str());
        let rows = rows(&cluster, place).await?;
        let workloads = workloads(&cluster, place, &screen).await?;
        let mut events: Vec<Event> = workloads.into_iter().map(Event::Workload).collect();
        events.extend(rows.into_iter().map(Event::ClusterIntercept));
        answer(&screen, &events, || {
            let workloads = show::workloads(&events);
            let first = match workloads.len() {
                1 => say::no_workloads(place) + "\n",
                _ => show::table(&workloads, screen.paint()),
            };
            format!("{first}\n{}", intercept_table(&screen, &events, &say::no_intercepts(place)))
        })
    })
}

/// `redir status`: the developer's own intercepts, pod by pod.
pub(super) fn status(args: &args::QueryArgs) -> Outcome {
    with_runtime(args.agents.output, async |screen| {
        let cluster = Cluster::connect(&args.cluster).await?;
        let place = (!args.all_namespaces).then_some(cluster.namespace.as_str());
        let own = rows(&cluster, place).await?.into_iter().filter(|row| row.is_own);
        let events: Vec<Event> = own.map(Event::ClusterIntercept).collect();
        answer(&screen, &events, || match events.is_empty() {
            true => session::none_of_yours() + "\n",
            false => {
                let pods = show::table(&show::intercept_pods(&events), screen.paint());
                format!("{}\n{pods}", intercept_table(&screen, &events, ""))
            }
        })
    })
}

/// `redir leave`: deletes intercepts of one's own.
pub(super) fn leave(args: &args::LeaveArgs) -> Outcome {
    if let Some(LeaveTarget::Id(_)) = args.which {
        return Err(CliError::Usage(say::number_in_cluster()));
    }
    with_runtime(args.agents.output, async |screen| {
        let cluster = Cluster::connect(&args.cluster).await?;
        let rows = rows(&cluster, Some(&cluster.namespace)).await?;
        let mut left = 0_usize;
        for row in rows.iter().filter(|row| is_meant(row, args.which.as_ref())) {
            if !row.is_of_this_login {
                return Err(CliError::Failed(say::somebody_elses(&row.name, &show::developer(row))));
            }
            delete(&cluster, &row.name).await?;
            left += 1;
            screen.tell(&Event::Left {
                agent: row.namespace.clone(),
                what: format!("{} ({})", row.name, row.target),
                count: 1,
                ids: Vec::new(),
            });
        }
        match (left, args.all) {
            (0, true) => {
                screen.note(session::none_of_yours());
                Ok(0)
            }
            (0, false) => Err(CliError::Failed(session::nothing_to_leave(args.which.as_ref()))),
            _ => Ok(0),
        }
    })
}

/// Which intercepts `leave` means: one by its name, or the developer's own on a target.
fn is_meant(row: &InterceptRow, which: Option<&LeaveTarget>) -> bool {
    match which {
        None => row.is_own,
        Some(LeaveTarget::Id(_)) => false,
        Some(LeaveTarget::Target(Target::Pod(name))) => {
            row.name == *name || row.is_own && row.target == format!("{}/{name}", short(TargetKind::Pod))
        }
        Some(LeaveTarget::Target(target)) => row.is_own && row.target == target.to_string(),
    }
}

/// `redir describe`: everything about one.
pub(super) fn describe(args: &args::DescribeArgs) -> Outcome {
    refuse_static("describe", "`redir status` and `redir list` show their intercepts", &args.cluster)?;
    with_runtime(args.output, async |screen| {
        let cluster = Cluster::connect(&args.cluster).await?;
        let api: Api<Intercept> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
        let right = ApiCall::Right("get", PLURAL, Some(&cluster.namespace));
        let found = async { unless(&[404], api.get(&args.name).await) };
        let Some(intercept) = cluster.call(right, found).await? else {
            // Either it is not there, or none can be: listing tells which.
            let others = rows(&cluster, Some(&cluster.namespace)).await?;
            let names: Vec<String> = others.into_iter().map(|row| row.name).collect();
            return Err(CliError::Failed(say::no_such_intercept(&args.name, &cluster.namespace, &names)));
        };
        let mut events = vec![Event::ClusterIntercept(rows::row(&intercept, &Viewer::of(&cluster).await))];
        match happened(&cluster, &intercept).await {
            Ok(happened) => events.extend(happened),
            Err(error) => screen.note(error.to_string()),
        }
        answer(&screen, &events, || {
            let pods = show::table(&show::intercept_pods(&events), screen.paint());
            let history = show::table(&show::happened(&events, timestamps::now()), screen.paint());
            format!("{}\n{pods}\n{history}", show::intercept_fields(&events, timestamps::now()))
        })
    })
}

/// The agents' Events about an Intercept, oldest first; they stand beside its target.
async fn happened(cluster: &Cluster, intercept: &Intercept) -> Result<Vec<Event>, CliError> {
    let api: Api<KubeEvent> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let right = ApiCall::Right("list", "events", Some(&cluster.namespace));
    let listed = cluster.call(right, api.list(&ListParams::default())).await?;
    let uid = intercept.metadata.uid.as_deref();
    let concerns = |event: &&KubeEvent| {
        let objects = [Some(&event.involved_object), event.related.as_ref()];
        let names_it = objects.into_iter().flatten().any(|object| object.uid.as_deref() == uid);
        event.reporting_component.as_deref() == Some(names::REPORTER) && names_it
    };
    let mut events: Vec<Event> = listed.items.iter().filter(concerns).map(happening).collect();
    events.sort_by_key(|event| match event {
        Event::Happened { at, .. } => at.0,
        _ => 0,
    });
    Ok(events)
}

fn happening(event: &KubeEvent) -> Event {
    let seen = event.event_time.as_ref().map(|time| time.0.as_millisecond());
    let seen = seen.or_else(|| event.last_timestamp.as_ref().map(|time| time.0.as_millisecond()));
    let of = &event.involved_object;
    Event::Happened {
        at: redir_wire::UnixMillis(seen.and_then(|millis| u64::try_from(millis).ok()).unwrap_or(0)),
        reason: event.reason.clone().unwrap_or_default(),
        object: format!(
            "{}/{}",
            of.kind.clone().unwrap_or_default().to_lowercase(),
            of.name.clone().unwrap_or_default()
        ),
        node: event.reporting_instance.clone().unwrap_or_default(),
        message: event.message.clone().unwrap_or_default(),
    }
}

/// Every Intercept of a namespace, or of all.
pub(super) async fn rows(cluster: &Cluster, place: Option<&str>) -> Result<Vec<InterceptRow>, CliError> {
    let api: Api<Intercept> = match place {
        Some(namespace) => Api::namespaced(cluster.client.clone(), namespace),
        None => Api::all(cluster.client.clone()),
    };
    let parameters = ListParams::default();
    let listed = cluster.call(ApiCall::Right("list", PLURAL, place), api.list(&parameters));
    let (listed, viewer) = join(listed, Viewer::of(cluster)).await;
    Ok(listed?.items.iter().map(|intercept| rows::row(intercept, &viewer)).collect())
}

async fn delete(cluster: &Cluster, name: &str) -> Result<(), CliError> {
    let api: Api<Intercept> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let gone = async { unless(&[404], api.delete(name, &DeleteParams::default()).await) };
    cluster.call(ApiCall::Right("delete", PLURAL, Some(&cluster.namespace)), gone).await.map(drop)
}

/// What can be intercepted. Kinds that this user may not list, or that the cluster has not, are left out.
async fn workloads(cluster: &Cluster, place: Option<&str>, screen: &Screen) -> Result<Vec<WorkloadRow>, CliError> {
    let mut workloads = Vec::new();
    for kind in LISTED {
        let listed = of_kind(cluster, place, kind);
        match cluster.call(ApiCall::Right("list", kind.plural(), place), listed).await? {
            Some(list) => workloads.extend(list.items.iter().map(|object| workload(kind, object))),
            None if kind == TargetKind::Rollout => (),
            None => screen.note(say::not_listed(kind.plural())),
        }
    }
    Ok(workloads)
}

async fn of_kind(
    cluster: &Cluster,
    place: Option<&str>,
    kind: TargetKind,
) -> Result<Option<ObjectList<DynamicObject>>, kube::Error> {
    let resource = target::resource(kind);
    let api: Api<DynamicObject> = match place {
        Some(namespace) => Api::namespaced_with(cluster.client.clone(), namespace, &resource),
        None => Api::all_with(cluster.client.clone(), &resource),
    };
    unless(&[403, 404], api.list(&ListParams::default()).await)
}

fn workload(kind: TargetKind, object: &DynamicObject) -> WorkloadRow {
    let spec = &object.data["spec"];
    let declared = match kind {
        TargetKind::Service => ports::of_service(spec),
        _ => ports::of_containers(&spec["template"]["spec"]),
    };
    WorkloadRow {
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        target: format!("{}/{}", short(kind), object.metadata.name.clone().unwrap_or_default()),
        ports: ports::shown(&declared),
    }
}

fn intercept_table(screen: &Screen, events: &[Event], none: &str) -> String {
    let rows = show::cluster_intercepts(events, timestamps::now());
    if rows.len() == 1 { format!("{none}\n") } else { show::table(&rows, screen.paint()) }
}

fn answer(screen: &Screen, events: &[Event], text: impl FnOnce() -> String) -> Outcome {
    print(&match screen.output() {
        args::OutputFormat::Json => ask::json(events),
        args::OutputFormat::Text => text(),
    })
}

#[cfg(test)]
mod tests {
    use redir_wire::UnixMillis;

    use super::*;

    fn row(name: &str, target: &str, is_own: bool) -> InterceptRow {
        InterceptRow {
            namespace: "shop".into(),
            name: name.into(),
            target: target.into(),
            port: "80".into(),
            user: String::new(),
            is_checked: true,
            from: String::new(),
            is_own,
            is_of_this_login: is_own,
            since: UnixMillis(0),
            filter: String::new(),
            to: String::new(),
            pods: Vec::new(),
            reasons: Vec::new(),
        }
    }

    #[test]
    fn leave_means_ones_own() {
        let rows = [
            row("web-a", "deploy/web", true),
            row("web-b", "deploy/web", false),
            row("db-c", "pod/db", true),
            row("x-d", "app=web,tier=front", true),
        ];
        let meant = |which: Option<&str>| -> Vec<&str> {
            let which = which.map(|text| text.parse::<LeaveTarget>().unwrap());
            rows.iter().filter(|row| is_meant(row, which.as_ref())).map(|row| row.name.as_str()).collect()
        };
        assert_eq!(meant(None), ["web-a", "db-c", "x-d"]);
        assert_eq!(meant(Some("deployment/web")), ["web-a"]);
        assert_eq!(meant(Some("web-b")), ["web-b"], "by its name also another's, which is refused then");
        assert_eq!(meant(Some("db")), ["db-c"]);
        assert_eq!(meant(Some("tier=front,app=web")), ["x-d"]);
    }
}
