#!/bin/sh
# Makes the programs of the local cluster, one STAGE after the other, in the current folder: `build.sh STAGE VERSION`.
# Everything is Debian's: Kubernetes' whole source, the Go that compiles it, etcd, containerd, runc and the network
# plugins. Nothing is installed: packages are fetched by an apt with sources and lists of its own, and only unpacked, so
# that no service of theirs ever starts. Needs no root. An interrupted stage may be repeated; `compile` goes on where it was.
set -eu
stage=$1 version=$2
here=$PWD
source=$here/gopath/src/k8s.io/kubernetes

apt() {
    apt-get -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$here/apt/sources" \
        -o Dir::State::Lists="$here/apt/lists" -o Dir::Cache="$here/apt/cache" \
        -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Update::Error-Mode=any "$@"
}

go() {
    # The person's own settings (GOENV, GOFLAGS, …) are for their own builds.
    env -u GOFLAGS -u GOTMPDIR -u GOROOT GOENV=off GO111MODULE=off CGO_ENABLED=0 \
        GOPATH="$here/gopath" GOCACHE="$here/gocache" "$here/root/usr/lib/go-1.19/bin/go" "$@"
}

case $stage in
fetch)
    mkdir -p apt/sources apt/lists/partial apt/cache/archives/partial downloads
    # Debian 12 whatever this machine is: the programs run on it and on everything newer.
    cat >apt/sources/debian-12.sources <<END
Types: deb deb-src
URIs: ${REDIR_DEBIAN_MIRROR:-http://deb.debian.org/debian}
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
    apt update
    cd downloads
    apt download golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev etcd-server containerd runc containernetworking-plugins kubernetes-client
    apt source --download-only kubernetes
    ;;
unpack)
    rm -rf root gopath
    mkdir -p root "$source"
    for package in downloads/*.deb; do dpkg-deb --extract "$package" root; done
    # Debian's patches of this version are to kubectl alone, which comes as a package.
    tar -xzf downloads/kubernetes_*"$version".orig.tar.gz -C "$source" --strip-components=1
    # The vendored 1.0.1 calls into Go's runtime in a way that Go 1.18 changed: the API server would crash on the first
    # custom resource.
    rm -r "$source/vendor/github.com/modern-go/reflect2"
    cp -r root/usr/share/gocode/src/github.com/modern-go/reflect2 "$source/vendor/github.com/modern-go/"
    ;;
describe)
    # The API's own description is the one part of the source that is generated at build time (Makefile.generated_files).
    cd "$source"
    go build -o "$here/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
    packages=$(grep -rl --include='*.go' '+k8s:openapi-gen=' staging/src/k8s.io pkg | grep -v -e sample-apiserver -e code-generator \
        | xargs -n1 dirname | sort -u | sed -e 's#^staging/src/#k8s.io/kubernetes/vendor/#' -e 's#^pkg/#k8s.io/kubernetes/pkg/#' | paste -sd,)
    # It asks `go` for the packages.
    PATH=$here/root/usr/lib/go-1.19/bin:$PATH GOENV=off GO111MODULE=off GOPATH=$here/gopath GOCACHE=$here/gocache \
        "$here/openapi-gen" --logtostderr --input-dirs "$packages" --output-package k8s.io/kubernetes/pkg/generated/openapi \
        --output-file-base zz_generated.openapi --go-header-file vendor/k8s.io/code-generator/hack/boilerplate.go.txt \
        --report-filename "$here/openapi-violations"
    ;;
compile)
    cd "$source"
    # The version that the programs tell, in the variables that Kubernetes' own build sets (hack/lib/version.sh).
    rest=${version#*.}
    flags="-s -w"
    for package in component-base/version client-go/pkg/version; do
        for value in gitVersion=v"$version" gitMajor="${version%%.*}" gitMinor="${rest%%.*}" gitTreeState=archive; do
            flags="$flags -X k8s.io/kubernetes/vendor/k8s.io/$package.$value"
        done
    done
    # Kubernetes' own tags for a build without clouds and without Docker's engine: it is half the size, and the kubelet does
    # not wait 5 s for Docker at each start.
    go build -v -trimpath -tags providerless,dockerless -o "$here/compiled/" -ldflags "$flags" \
        ./cmd/kube-apiserver ./cmd/kube-controller-manager ./cmd/kube-scheduler ./cmd/kubelet ./cmd/kube-proxy
    ;;
assemble)
    rm -rf done
    mkdir -p done/bin done/cni
    cp compiled/* done/bin/
    cd root/usr
    cp bin/containerd bin/containerd-shim-runc-v2 bin/ctr bin/etcd bin/kubectl sbin/runc "$here/done/bin/"
    cp lib/cni/bridge lib/cni/host-local lib/cni/loopback lib/cni/portmap "$here/done/cni/"
    cd "$here"
    # The process that holds a pod's namespaces, and a node's: Kubernetes' own.
    gcc -static -Os -s -o done/bin/pause "$source/build/pause/linux/pause.c"
    for package in etcd-server containerd runc; do
        echo "$package $(dpkg-deb --field downloads/"$package"_*.deb Version)"
    done >done/versions
    ;;
*)
    echo "no such stage: $stage" >&2
    exit 2
    ;;
esac
