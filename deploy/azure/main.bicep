// The whole set-up of a subscription: data, workspace, identities with their roles, and a host for Dagster and the
// labeling page. `azd provision` or `az deployment sub create` deploys it; docs/azure.md tells how, and what it costs.
targetScope = 'subscription'

@description('Begins the names of everything; 3 to 12 lower-case letters and digits')
@minLength(3)
@maxLength(12)
param environmentName string

@description('Region of everything: a system topic has to lie where its storage account lies')
param location string

param resourceGroupName string = 'rg-${environmentName}'

@description('deployment.endpoint; it has to be free in the whole region')
param endpointName string = '${environmentName}-classifier'

@description('azure.kusto_retention_days')
@minValue(1)
@maxValue(36500)
param retentionDays int = 730

@description('Dev(No SLA)_... with the tier Basic and one machine is the cheapest that streams; two machines or more are Standard')
param clusterSku string = 'Dev(No SLA)_Standard_E2a_v4'

@allowed(['Basic', 'Standard'])
param clusterTier string = 'Basic'

param clusterInstances int = 1

@description('Machine that trains; cores of GPU families have to be asked for')
param trainingMachine string = 'Standard_NC4as_T4_v3'

@description('Machine that scores batches')
param batchMachine string = 'Standard_D4as_v4'

@description('Nothing of the data is reached from outside a virtual network')
param privateNetworking bool = false

@description('Image of this platform in the registry; empty: everything but the host is deployed')
param image string = ''

@description('Application (client) id of the registration that people log in by; empty: no page is opened')
param loginClientId string = ''

@description('Application (client) id of an identity that may start runs without a person, as the workflows of deploy/github do; empty: none')
param launcherClientId string = ''

@secure()
@description('Secret of that registration')
param loginClientSecret string = ''

@description('labeling_page.trusted_proxies: the networks from which the built-in login sends requests')
param labelingTrustedProxies array = ['127.0.0.1/32', '::1/128']

@secure()
@minLength(16)
@description('Password of the administrator of the database of Dagster')
param databasePassword string

resource group 'Microsoft.Resources/resourceGroups@2024-03-01' = {
  name: resourceGroupName
  location: location
}

module identities 'modules/identities.bicep' = {
  name: 'identities'
  scope: group
  params: {
    environmentName: environmentName
    location: location
  }
}

module network 'modules/network.bicep' = if (privateNetworking) {
  name: 'network'
  scope: group
  params: {
    environmentName: environmentName
    location: location
  }
}

module storage 'modules/storage.bicep' = {
  name: 'storage'
  scope: group
  params: {
    environmentName: environmentName
    location: location
    privateNetworking: privateNetworking
    platformPrincipalId: identities.outputs.platformPrincipalId
    scoringPrincipalId: identities.outputs.scoringPrincipalId
  }
}

module events 'events.bicep' = {
  name: 'events'
  scope: group
  params: {
    storageAccountName: storage.outputs.accountName
    containerName: storage.outputs.containerName
    location: location
  }
}

module dataExplorer 'modules/data_explorer.bicep' = {
  name: 'data-explorer'
  scope: group
  params: {
    environmentName: environmentName
    location: location
    skuName: clusterSku
    skuTier: clusterTier
    instances: clusterInstances
    retentionDays: retentionDays
    privateNetworking: privateNetworking
    platformClientId: identities.outputs.platformClientId
    scoringClientId: identities.outputs.scoringClientId
  }
}

module workspace 'modules/workspace.bicep' = {
  name: 'workspace'
  scope: group
  params: {
    environmentName: environmentName
    location: location
    endpointName: endpointName
    trainingMachine: trainingMachine
    batchMachine: batchMachine
    privateNetworking: privateNetworking
    storageAccountName: storage.outputs.accountName
    containerName: storage.outputs.containerName
    clusterId: dataExplorer.outputs.clusterId
    platformIdentityName: identities.outputs.platformName
    scoringIdentityName: identities.outputs.scoringName
    databasePassword: databasePassword
    loginClientSecret: loginClientSecret
  }
}

module endpoints 'modules/private_endpoints.bicep' = if (privateNetworking) {
  name: 'private-endpoints'
  scope: group
  params: {
    location: location
    networkId: privateNetworking ? network.outputs.networkId : ''
    subnetId: privateNetworking ? network.outputs.endpointsSubnetId : ''
    storageAccountId: storage.outputs.accountId
    clusterId: dataExplorer.outputs.clusterId
    workspaceId: workspace.outputs.workspaceId
    vaultId: workspace.outputs.vaultId
    registryId: workspace.outputs.registryId
  }
}

module database 'modules/dagster_database.bicep' = {
  name: 'dagster-database'
  scope: group
  params: {
    environmentName: environmentName
    location: location
    password: databasePassword
    subnetId: privateNetworking ? network.outputs.databaseSubnetId : ''
    dnsZoneId: privateNetworking ? network.outputs.databaseZoneId : ''
  }
}

module host 'modules/host.bicep' = if (!empty(image)) {
  name: 'host'
  scope: group
  params: {
    environmentName: environmentName
    location: location
    image: image
    registryServer: workspace.outputs.registryServer
    vaultUri: workspace.outputs.vaultUri
    logsName: workspace.outputs.logsName
    platformIdentityId: identities.outputs.platformId
    platformClientId: identities.outputs.platformClientId
    scoringClientId: identities.outputs.scoringClientId
    kustoUri: dataExplorer.outputs.kustoUri
    kustoDatabase: dataExplorer.outputs.databaseName
    retentionDays: retentionDays
    blobAccountUrl: storage.outputs.blobAccountUrl
    containerName: storage.outputs.containerName
    eventsQueueUrl: events.outputs.queueUrl
    workspaceName: workspace.outputs.workspaceName
    datastoreName: workspace.outputs.datastoreName
    endpointName: endpointName
    databaseHost: database.outputs.host
    loginClientId: loginClientId
    launcherClientId: launcherClientId
    labelingTrustedProxies: labelingTrustedProxies
    subnetId: privateNetworking ? network.outputs.appsSubnetId : ''
  }
}

// As the settings are called: `azd env get-values` writes what a machine of yours needs to talk to all of it.
output AL_PROFILE string = 'azure'
output AL_AZURE__KUSTO_URI string = dataExplorer.outputs.kustoUri
output AL_AZURE__KUSTO_DATABASE string = dataExplorer.outputs.databaseName
output AL_AZURE__BLOB_ACCOUNT_URL string = storage.outputs.blobAccountUrl
output AL_AZURE__CONTAINER string = storage.outputs.containerName
output AL_AZURE__EVENTS_QUEUE_URL string = events.outputs.queueUrl
output AL_AZURE__KUSTO_RETENTION_DAYS int = retentionDays
output AL_AZURE_ML__SUBSCRIPTION string = subscription().subscriptionId
output AL_AZURE_ML__RESOURCE_GROUP string = group.name
output AL_AZURE_ML__WORKSPACE string = workspace.outputs.workspaceName
output AL_AZURE_ML__DATASTORE string = workspace.outputs.datastoreName
output AL_DEPLOYMENT__ENDPOINT string = endpointName
output REGISTRY_SERVER string = workspace.outputs.registryServer
output DAGSTER_URL string = empty(image) ? '' : host.outputs.dagsterUrl
output LABELING_URL string = empty(image) ? '' : host.outputs.labelingUrl
