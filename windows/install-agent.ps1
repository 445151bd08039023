<#
.SYNOPSIS
Installs the restic-manager agent as a service, enrolls it where it is not, or removes the service. Repeating it is harmless.
.EXAMPLE
.\install-agent.ps1 -Server https://backup.example.org -Token rme_... -HostName win-1
.EXAMPLE
.\install-agent.ps1 -Uninstall
#>
param(
    [string] $Server,
    # The one-time token. Left out, it is asked for, so that it stands in no history of commands.
    [string] $Token,
    [string] $HostName,
    [string] $CaFile,
    # Where restic-manager-agent.exe comes from: beside this script.
    [string] $Program = (Join-Path $PSScriptRoot 'restic-manager-agent.exe'),
    [switch] $Uninstall
)
$ErrorActionPreference = 'Stop'
$folder = Join-Path $env:ProgramFiles 'restic-manager'
$agent = Join-Path $folder 'restic-manager-agent.exe'
$directory = Join-Path $env:ProgramData 'restic-manager-agent'

function Invoke-Agent {
    param([string[]] $Arguments)
    & $agent @Arguments
    if ($LASTEXITCODE -ne 0) { throw "restic-manager-agent $($Arguments[0]) failed with $LASTEXITCODE" }
}

$user = New-Object Security.Principal.WindowsPrincipal ([Security.Principal.WindowsIdentity]::GetCurrent())
if (-not $user.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)) { throw 'Run this as an administrator.' }

if ($Uninstall) {
    if (Test-Path $agent) {
        Invoke-Agent @('service', 'uninstall')
        Remove-Item $folder -Recurse -Force
    }
    Write-Output "The agent is removed. Its identity and what it has not sent yet stay in $directory."
    return
}

# A running program's file cannot be replaced.
if (Get-Service 'restic-manager-agent' -ErrorAction SilentlyContinue) { Stop-Service 'restic-manager-agent' }
New-Item $folder -ItemType Directory -Force | Out-Null
if ((Resolve-Path $Program).Path -ne $agent) { Copy-Item $Program $agent -Force }
if (-not (Test-Path (Join-Path $directory 'identity.json')) -or $Token) {
    if (-not $Server) { throw 'This host is not enrolled: give -Server, and -Token if you like.' }
    if (-not $Token) {
        $secret = Read-Host 'Enrollment token' -AsSecureString
        $Token = (New-Object Net.NetworkCredential ('', $secret)).Password
    }
    $arguments = @('enroll', '--server', $Server, '--dir', $directory)
    if ($HostName) { $arguments += @('--host', $HostName) }
    if ($CaFile) { $arguments += @('--ca-file', $CaFile) }
    # By the environment: what stands on a command line can be seen by everyone.
    $env:RESTIC_MANAGER_ENROLLMENT_TOKEN = $Token
    try { Invoke-Agent $arguments } finally { Remove-Item Env:RESTIC_MANAGER_ENROLLMENT_TOKEN }
}
Invoke-Agent @('service', 'install', '--dir', $directory)
